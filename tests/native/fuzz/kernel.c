#include "kernel.h"

#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FIRST 100
#define START 1000000000000ll
#define LOOPS 200
#define SETS 2 /* of descriptors, in which one may be */

typedef struct {
    bool open;
    message waiting[QUEUED];
    uint32_t count;
    bool is_epoll;
    struct {
        int epoll; /* 0 = none */
        struct epoll_event event;
    } watched_by[SETS];
} descriptor;

static descriptor descriptors[DESCRIPTORS];
static int64_t now, late;
static int refusal;
static uint32_t refusals, loops;

void (*kernel_sent_packet)(const uint8_t *data, size_t bytes);
void (*kernel_sent_datagrams)(const struct msghdr *told);

void failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

static descriptor *find(int fd)
{
    REQUIRE(fd >= FIRST && fd < FIRST + DESCRIPTORS && descriptors[fd - FIRST].open);
    return &descriptors[fd - FIRST];
}

static void forget(message *m, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(m[i].data);
}

void kernel_reset(void)
{
    for (uint32_t i = 0; i < DESCRIPTORS; i++) {
        forget(descriptors[i].waiting, descriptors[i].count);
        descriptors[i] = (descriptor){0};
    }
    now = START;
    late = 0;
    refusal = 0;
    refusals = loops = 0;
}

int kernel_open(void)
{
    for (uint32_t i = 0; i < DESCRIPTORS; i++)
        if (!descriptors[i].open) {
            descriptors[i] = (descriptor){.open = true};
            return FIRST + (int)i;
        }
    REQUIRE(!"a descriptor is free");
    return -1;
}

void kernel_close(int fd)
{
    descriptor *d = find(fd);
    forget(d->waiting, d->count);
    *d = (descriptor){0};
}

bool kernel_queue(int fd, const message *m)
{
    descriptor *d = find(fd);
    if (d->count == QUEUED)
        return false;
    d->waiting[d->count] = *m;
    d->waiting[d->count].data = malloc(m->length + 1u);
    memcpy(d->waiting[d->count++].data, m->data, m->length);
    return true;
}

void kernel_refuse(int error, uint32_t times)
{
    refusal = error;
    refusals = times;
}

void kernel_late(int64_t nanoseconds) { late = nanoseconds; }
void kernel_pass(int64_t nanoseconds) { now += nanoseconds; }

/* -- the system calls */

int clock_gettime(clockid_t clock, struct timespec *told)
{
    (void)clock; /* the wall clock shows the same time */
    now += 500;
    *told = (struct timespec){.tv_sec = now / 1000000000, .tv_nsec = now % 1000000000};
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    struct timespec *stamp = va_arg(rest, struct timespec *);
    va_end(rest);
    find(fd);
    *stamp = (struct timespec){.tv_sec = (now - late) / 1000000000, .tv_nsec = (now - late) % 1000000000};
    return 0;
}

int epoll_create1(int flags)
{
    (void)flags;
    int fd = kernel_open();
    find(fd)->is_epoll = true;
    return fd;
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    REQUIRE(find(epoll)->is_epoll);
    descriptor *d = find(fd);
    for (uint32_t i = 0; i < SETS; i++) {
        bool here = d->watched_by[i].epoll == epoll;
        REQUIRE(!here || operation == EPOLL_CTL_DEL);
        if (here)
            d->watched_by[i].epoll = 0;
        if (operation == EPOLL_CTL_DEL || d->watched_by[i].epoll)
            continue;
        d->watched_by[i].epoll = epoll;
        d->watched_by[i].event = *event;
        return 0;
    }
    REQUIRE(operation == EPOLL_CTL_DEL);
    return 0;
}

static bool readable(int fd);

static int ready_of(int epoll, struct epoll_event *ready, int most)
{
    int count = 0;
    for (uint32_t i = 0; i < DESCRIPTORS * SETS && count < most; i++) {
        const descriptor *d = &descriptors[i / SETS];
        if (d->open && d->watched_by[i % SETS].epoll == epoll && readable(FIRST + (int)(i / SETS)))
            ready[count++] = d->watched_by[i % SETS].event;
    }
    return count;
}

static bool readable(int fd)
{
    struct epoll_event one;
    descriptor *d = find(fd);
    return d->is_epoll ? ready_of(fd, &one, 1) : d->count > 0;
}

int epoll_wait(int epoll, struct epoll_event *ready, int most, int timeout)
{
    REQUIRE(find(epoll)->is_epoll && most > 0 && timeout >= -1);
    int count = ready_of(epoll, ready, most);
    if (count || !timeout)
        return count;
    if (timeout < 0 || loops++ > LOOPS) { /* nothing would ever happen */
        errno = EINTR;
        return -1;
    }
    now += (int64_t)timeout * 1000000;
    return 0;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int limit, int flags, struct timespec *timeout)
{
    descriptor *d = find(fd);
    REQUIRE(flags & MSG_DONTWAIT && !timeout && limit > 0);
    if (!d->count) {
        errno = EAGAIN;
        return -1;
    }
    uint32_t count = d->count < limit ? d->count : limit;
    for (uint32_t i = 0; i < count; i++) {
        struct msghdr *to = &messages[i].msg_hdr;
        message *m = &d->waiting[i];
        REQUIRE(to->msg_iovlen == 1);
        uint32_t length = m->length < to->msg_iov->iov_len ? m->length : (uint32_t)to->msg_iov->iov_len;
        memcpy(to->msg_iov->iov_base, m->data, length);
        REQUIRE(to->msg_namelen >= m->name_bytes && to->msg_controllen >= m->control_bytes);
        memcpy(to->msg_name, m->name, m->name_bytes);
        memcpy(to->msg_control, m->control, m->control_bytes);
        to->msg_namelen = m->name_bytes;
        to->msg_controllen = m->control_bytes;
        to->msg_flags = m->flags | (length < m->length ? MSG_TRUNC : 0);
        messages[i].msg_len = length;
        free(m->data);
    }
    memmove(d->waiting, d->waiting + count, (d->count - count) * sizeof *d->waiting);
    d->count -= count;
    return (int)count;
}

static bool refused(void)
{
    if (!refusals)
        return false;
    refusals--;
    errno = refusal;
    return true;
}

static volatile uint8_t sink;

static void read_all(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum ^= at[i];
    sink = sum;
}

ssize_t sendto(int fd, const void *data, size_t bytes, int flags, const struct sockaddr *to, socklen_t to_bytes)
{
    find(fd);
    REQUIRE(flags == MSG_DONTWAIT && !to == !to_bytes);
    read_all(data, bytes);
    read_all(to, to_bytes);
    if (refused())
        return -1;
    kernel_sent_packet(data, bytes);
    return (ssize_t)bytes;
}

ssize_t sendmsg(int fd, const struct msghdr *told, int flags)
{
    ssize_t bytes = 0;
    find(fd);
    REQUIRE(flags == MSG_DONTWAIT);
    for (size_t i = 0; i < told->msg_iovlen; i++) {
        read_all(told->msg_iov[i].iov_base, told->msg_iov[i].iov_len);
        bytes += (ssize_t)told->msg_iov[i].iov_len;
    }
    read_all(told->msg_name, told->msg_namelen);
    read_all(told->msg_control, told->msg_controllen);
    if (refused())
        return -1;
    kernel_sent_datagrams(told);
    return bytes;
}

int close(int fd)
{
    kernel_close(fd);
    return 0;
}
