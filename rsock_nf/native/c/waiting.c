/* How long what a socket gives has waited in the kernel's queue, and what is dropped of a late read.
 * Twin: link/waiting_time.py, which says why.
 */
#include "hot.h"

#include <sys/ioctl.h>
#include <time.h>

#ifndef SIOCGSTAMPNS_OLD
#define SIOCGSTAMPNS_OLD 0x8907 /* asm-generic/sockios.h: struct timespec */
#endif
#define GRACE 100000000ll
#define AGAIN 1000000000ll
#define SMALL 256u

static int64_t age(int fd)
{
    struct timespec stamp, now;
    if (ioctl(fd, SIOCGSTAMPNS_OLD, &stamp))
        return 0; /* nothing was received yet, or without a stamp */
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t waited = (int64_t)(now.tv_sec - stamp.tv_sec) * 1000000000 + (now.tv_nsec - stamp.tv_nsec);
    return waited > 0 ? waited : 0;
}

void waiting_init(hot_waiting *w, int fd, int64_t now)
{
    age(fd); /* a kernel that keeps stamps only for who asks keeps them from now on */
    *w = (hot_waiting){.empty_at = now, .late_since = -1, .dropped_at = now - 2 * AGAIN};
}

/* To be called after each read that brought something: for how long its last message has waited; 0 = it is not late,
 * or not late for long enough to matter.  full: the read brought as much as it may. */
int64_t waiting_read(hot_waiting *w, int fd, int64_t now, bool full)
{
    int64_t since_empty = now - w->empty_at, waited = 0;
    if (since_empty >= BEHIND) {
        waited = age(fd);
        waited = waited < since_empty ? waited : since_empty; /* the stamp is of the wall clock, which can be set */
    }
    w->waited = waited;
    if (waited < LATE)
        w->late_since = -1;
    else if (w->late_since < 0)
        w->late_since = now;
    if (!full)
        w->empty_at = now;
    if (w->late_since < 0)
        return 0;
    if (waited < LOST && now - w->late_since < GRACE && now - w->dropped_at > AGAIN)
        return 0;
    w->dropped_at = now;
    return waited;
}

void waiting_empty(hot_waiting *w, int64_t now)
{
    w->empty_at = now;
    w->waited = 0;
    w->late_since = -1;
}

bool may_be_control(uint32_t size, uint32_t segment_size)
{
    uint32_t last = segment_size && size % segment_size ? size % segment_size : segment_size ? segment_size : size;
    return last <= SMALL;
}

void not_the_cause(const uint64_t *senders, const uint32_t *amounts, uint32_t count, uint8_t *keep)
{
    uint64_t known[MESSAGES], total[MESSAGES], sum = 0;
    uint32_t kinds = 0, of[MESSAGES];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t k = 0;
        while (k < kinds && known[k] != senders[i])
            k++;
        if (k == kinds) {
            known[kinds] = senders[i];
            total[kinds++] = 0;
        }
        of[i] = k;
        total[k] += amounts[i];
        sum += amounts[i];
    }
    for (uint32_t i = 0; i < count; i++)
        keep[i] = total[of[i]] * 2 * kinds < sum;
}
