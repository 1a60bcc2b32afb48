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
#define STRANGERS_KEPT 2u

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
    *w = (hot_waiting){.since = now, .read_at = now, .late_since = -1, .dropped_at = now - 2 * AGAIN};
}

/* How many messages the next read should bring at most: few, if the queue may hold what is of no use to anybody. */
uint32_t waiting_limit(const hot_waiting *w, int64_t now)
{
    uint32_t shift = w->lost_reads < 6 ? w->lost_reads : 6;
    return now - w->since >= LOST ? 1u << shift : MESSAGES;
}

/* To be called after each read that brought something: for how long its last message has waited; 0 = it is not late,
 * or not late for long enough to matter.  full: the read brought as much as it may. */
int64_t waiting_read(hot_waiting *w, int fd, int64_t now, bool full)
{
    bool several = w->lost_reads > 0;
    int64_t longest = now - w->since, waited = 0;
    if (longest >= BEHIND) {
        waited = age(fd);
        waited = waited < longest ? waited : longest; /* the stamp is of the wall clock, which can be set */
        w->since = now - waited;
    }
    w->read_at = now;
    w->last_waited = waited;
    w->lost_reads = waited >= LOST ? w->lost_reads + 1 : 0;
    if (several && waited < LOST)
        waited = LOST;
    if (waited < LATE)
        w->late_since = -1;
    else if (w->late_since < 0)
        w->late_since = now;
    if (!full)
        w->since = now;
    if (w->late_since < 0)
        return 0;
    if (waited < LOST && now - w->late_since < GRACE && now - w->dropped_at > AGAIN)
        return 0;
    w->dropped_at = now;
    return waited;
}

void waiting_empty(hot_waiting *w, int64_t now)
{
    w->since = now;
    w->lost_reads = 0;
    w->last_waited = 0;
    w->late_since = -1;
}

/* For how long the last message of the last read has waited; 0 = nothing was read for a second. */
int64_t waiting_waited(const hot_waiting *w, int64_t now) { return now - w->read_at < AGAIN ? w->last_waited : 0; }

bool may_be_control(uint32_t size, uint32_t segment_size)
{
    uint32_t last = segment_size && size % segment_size ? size % segment_size : segment_size ? segment_size : size;
    return last <= SMALL;
}

uint32_t not_the_cause(const uint64_t *senders, const uint32_t *amounts, uint32_t count, uint8_t *keep)
{
    uint64_t known[MESSAGES], total[MESSAGES], sum = 0;
    uint32_t kinds = 0, strangers = 0, of[MESSAGES];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t k = 0;
        if (senders[i] == STRANGER) {
            strangers++;
            continue;
        }
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
    bool theirs = strangers > count - strangers;
    for (uint32_t i = 0; i < count; i++)
        keep[i] = senders[i] != STRANGER && (theirs || total[of[i]] * 2 * kinds < sum);
    return theirs ? STRANGERS_KEPT : strangers;
}
