/* A UDP application for measurements: sender, receiver, echo, round-trip meter.
 *
 *   udp_load send    -h HOST -p PORT -s SIZE -t SECONDS [-r PER_SECOND] [-g SEGMENTS]
 *   udp_load receive -p PORT [-t SECONDS] [-i IDLE_MS] [-g]
 *   udp_load echo    -p PORT
 *   udp_load rtt     -h HOST -p PORT -s SIZE -t SECONDS [-r PER_SECOND]
 *
 * Every datagram starts with a sequence number and the time it was sent, so that loss,
 * duplicates and round trips are counted and not guessed.  send and receive move 64
 * datagrams a call (sendmmsg, recvmmsg); with -g they are an application that uses
 * UDP_SEGMENT and UDP_GRO as well.  One line of JSON on standard output.
 *
 * Not a tunnel, and not part of what is installed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define MAX_SIZE 65507
#define SEEN_BITS (1u << 28) /* sequence numbers told apart by the receiver */
#define BUFFER_BYTES (4 << 20)

struct stamp {
    uint64_t sequence;
    uint64_t sent_ns;
};

struct options {
    const char *host, *port;
    size_t size;
    double seconds, rate;
    int segments, idle_ms, gro;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number) { (void)signal_number; stopped = 1; }

static void die(const char *what)
{
    fprintf(stderr, "udp_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t when_ns)
{
    struct timespec when = {(time_t)(when_ns / 1000000000u), (long)(when_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR && !stopped) { }
}

/* A socket connected to host:port, or bound to port on every address. */
static int open_socket(const struct options *o, int bind_it)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    if (bind_it)
        hints.ai_flags |= AI_PASSIVE, hints.ai_family = AF_INET6;
    int status = getaddrinfo(bind_it ? NULL : o->host, o->port, &hints, &found);
    if (status != 0) {
        fprintf(stderr, "udp_load: %s port %s: %s\n", o->host ? o->host : "*", o->port, gai_strerror(status));
        exit(1);
    }
    int fd = socket(found->ai_family, SOCK_DGRAM, 0), off = 0, size = BUFFER_BYTES;
    if (fd < 0)
        die("socket");
    if (bind_it && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0)
        die("IPV6_V6ONLY");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if ((bind_it ? bind : connect)(fd, found->ai_addr, found->ai_addrlen) < 0)
        die(bind_it ? "bind" : "connect");
    freeaddrinfo(found);
    return fd;
}

static int transient(int error)
{
    return error == ECONNREFUSED || error == ENOBUFS || error == EINTR || error == EAGAIN;
}

/* Stamp and send `count` datagrams of one size; how many the kernel took. */
static int send_batch(int fd, const struct options *o, unsigned char *memory, uint64_t sequence, int count)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        struct stamp stamp = {sequence + (uint64_t)i, now};
        memcpy(memory + (size_t)i * o->size, &stamp, sizeof stamp);
        parts[i] = (struct iovec){memory + (size_t)i * o->size, o->size};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    if (!o->segments) {
        int sent = sendmmsg(fd, messages, (unsigned)count, 0);
        return sent < 0 ? (transient(errno) ? 0 : (die("sendmmsg"), 0)) : sent;
    }
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec whole = {memory, o->size * (size_t)count};
    struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *option = CMSG_FIRSTHDR(&message);
    option->cmsg_level = SOL_UDP, option->cmsg_type = UDP_SEGMENT, option->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t segment = (uint16_t)o->size;
    memcpy(CMSG_DATA(option), &segment, sizeof segment);
    if (sendmsg(fd, &message, 0) < 0)
        return transient(errno) ? 0 : (die("sendmsg UDP_SEGMENT"), 0);
    return count;
}

static void run_send(const struct options *o)
{
    int fd = open_socket(o, 0), batch = o->segments ? o->segments : BATCH;
    if ((size_t)batch * o->size > MAX_SIZE && o->segments)
        batch = (int)(MAX_SIZE / o->size);
    if (o->rate > 0 && o->rate / 500 < batch) /* limited: a batch every 2 ms or so, never a flood */
        batch = o->rate < 1000 ? 1 : (int)(o->rate / 500);
    unsigned char *memory = calloc(BATCH, o->size);
    uint64_t start = now_ns(), end = start + (uint64_t)(o->seconds * 1e9), now = start;
    uint64_t offered = 0, taken = 0;
    while (!stopped && now < end) {
        taken += (uint64_t)send_batch(fd, o, memory, offered, batch);
        offered += (uint64_t)batch;
        if (o->rate > 0)
            sleep_until(start + (uint64_t)((double)offered / o->rate * 1e9));
        now = now_ns();
    }
    double seconds = (double)(now - start) / 1e9;
    printf("{\"offered\": %llu, \"taken\": %llu, \"seconds\": %.6f}\n", (unsigned long long)offered,
           (unsigned long long)taken, seconds);
}

struct tally {
    unsigned char *seen;
    uint64_t received, unique, bytes, short_ones, first_ns, last_ns;
};

static void count_datagram(struct tally *t, const unsigned char *data, size_t size)
{
    struct stamp stamp;
    t->received++, t->bytes += size;
    if (size < sizeof stamp) {
        t->short_ones++;
        return;
    }
    memcpy(&stamp, data, sizeof stamp);
    if (stamp.sequence >= SEEN_BITS)
        return;
    unsigned char bit = (unsigned char)(1u << (stamp.sequence & 7));
    t->unique += !(t->seen[stamp.sequence >> 3] & bit);
    t->seen[stamp.sequence >> 3] |= bit;
}

static size_t segment_size(struct msghdr *message, size_t whole)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return (size_t)size;
        }
    return whole;
}

static void run_receive(const struct options *o)
{
    int fd = open_socket(o, 1), on = 1, depth = o->gro ? 16 : BATCH;
    if (o->gro && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0)
        die("UDP_GRO");
    size_t room = 65536;
    unsigned char *memory = malloc((size_t)depth * room);
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    static char control[BATCH][CMSG_SPACE(sizeof(int))];
    struct tally t = {.seen = calloc(SEEN_BITS / 8, 1)};
    uint64_t opened = now_ns();
    puts("ready"), fflush(stdout);
    while (!stopped) {
        struct pollfd waiting = {fd, POLLIN, 0};
        if (poll(&waiting, 1, 50) <= 0) {
            uint64_t idle = now_ns() - (t.last_ns ? t.last_ns : opened);
            if (idle > (t.last_ns ? (uint64_t)o->idle_ms * 1000000u : (uint64_t)(o->seconds * 1e9)))
                break;
            continue;
        }
        for (int i = 0; i < depth; i++) {
            parts[i] = (struct iovec){memory + (size_t)i * room, room};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
                .msg_control = o->gro ? control[i] : NULL, .msg_controllen = o->gro ? sizeof control[i] : 0};
        }
        int count = recvmmsg(fd, messages, (unsigned)depth, MSG_DONTWAIT, NULL);
        t.last_ns = now_ns();
        if (count > 0 && !t.first_ns)
            t.first_ns = t.last_ns;
        for (int i = 0; i < count; i++) {
            size_t whole = messages[i].msg_len, step = segment_size(&messages[i].msg_hdr, whole);
            for (size_t at = 0; at < whole; at += step)
                count_datagram(&t, (unsigned char *)parts[i].iov_base + at, whole - at < step ? whole - at : step);
        }
    }
    printf("{\"received\": %llu, \"unique\": %llu, \"duplicates\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n",
           (unsigned long long)t.received, (unsigned long long)t.unique,
           (unsigned long long)(t.received - t.unique - t.short_ones), (unsigned long long)t.bytes,
           (double)(t.last_ns - t.first_ns) / 1e9);
}

static void run_echo(const struct options *o)
{
    int fd = open_socket(o, 1);
    static unsigned char memory[BATCH][2048];
    static struct sockaddr_storage from[BATCH];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    puts("ready"), fflush(stdout);
    while (!stopped) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){memory[i], sizeof memory[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
                .msg_name = &from[i], .msg_namelen = sizeof from[i]};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++)
            parts[i].iov_len = messages[i].msg_len;
        if (count > 0)
            sendmmsg(fd, messages, (unsigned)count, 0);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Take the answers that have come by `until`; their round trips go to `trips`. */
static size_t collect(int fd, uint64_t until, uint64_t *trips, size_t count, size_t room)
{
    unsigned char data[2048];
    for (uint64_t now = now_ns(); now < until && !stopped; now = now_ns()) {
        struct timespec left = {0, (long)(until - now < 999999999u ? until - now : 999999999u)};
        struct pollfd waiting = {fd, POLLIN, 0};
        if (ppoll(&waiting, 1, &left, NULL) <= 0)
            continue;
        ssize_t size = recv(fd, data, sizeof data, MSG_DONTWAIT);
        struct stamp stamp;
        if (size >= (ssize_t)sizeof stamp && count < room) {
            memcpy(&stamp, data, sizeof stamp);
            trips[count++] = now_ns() - stamp.sent_ns;
        }
    }
    return count;
}

static void run_rtt(const struct options *o)
{
    int fd = open_socket(o, 0);
    double rate = o->rate > 0 ? o->rate : 1000;
    size_t total = (size_t)(o->seconds * rate), count = 0;
    uint64_t *trips = calloc(total + 1, sizeof *trips), start = now_ns();
    unsigned char *memory = calloc(1, o->size);
    for (size_t i = 0; i < total && !stopped; i++) {
        struct stamp stamp = {i, now_ns()};
        memcpy(memory, &stamp, sizeof stamp);
        if (send(fd, memory, o->size, 0) < 0 && !transient(errno))
            die("send");
        count = collect(fd, start + (uint64_t)((double)(i + 1) / rate * 1e9), trips, count, total);
    }
    count = collect(fd, now_ns() + 300000000u, trips, count, total);
    qsort(trips, count, sizeof *trips, ascending);
    printf("{\"offered\": %zu, \"received\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", total, count,
           count ? (double)trips[count / 2] / 1e3 : -1, count ? (double)trips[count * 99 / 100] / 1e3 : -1);
}

int main(int argc, char **argv)
{
    struct options o = {.size = 1200, .seconds = 3, .idle_ms = 500};
    const char *mode = argc > 1 ? argv[1] : "";
    int receiving = !strcmp(mode, "receive"), option;
    optind = 2;
    while ((option = getopt(argc, argv, receiving ? "p:t:i:g" : "h:p:s:t:r:g:")) != -1) {
        switch (option) {
        case 'h': o.host = optarg; break;
        case 'p': o.port = optarg; break;
        case 's': o.size = (size_t)atol(optarg); break;
        case 't': o.seconds = atof(optarg); break;
        case 'r': o.rate = atof(optarg); break;
        case 'i': o.idle_ms = atoi(optarg); break;
        case 'g': receiving ? (o.gro = 1) : (o.segments = atoi(optarg)); break;
        default: return 2;
        }
    }
    struct sigaction action = {.sa_handler = stop}; /* no SA_RESTART: a blocked recvmmsg returns */
    sigaction(SIGTERM, &action, NULL), sigaction(SIGINT, &action, NULL);
    int sends = !strcmp(mode, "send") || !strcmp(mode, "rtt");
    if (!o.port || (sends && !o.host) || o.size < sizeof(struct stamp) || o.size > 2048 || o.segments > BATCH) {
        fprintf(stderr, "usage: udp_load send|receive|echo|rtt -p PORT [-h HOST] [-s 16..2048] ... (see the source)\n");
        return 2;
    }
    if (!strcmp(mode, "send")) run_send(&o);
    else if (receiving) run_receive(&o);
    else if (!strcmp(mode, "echo")) run_echo(&o);
    else if (!strcmp(mode, "rtt")) run_rtt(&o);
    else return 2;
    return 0;
}
