/* Load: as fast as the kernel takes it, or a rate, in bursts of a millisecond.
 *
 * A burst is spread over as many conversations as there are, so with 64 or more each datagram is of another one than
 * the datagram before.  The far end sends to all of them in one call: its messages have addresses.
 */
#include "load.h"

#define BURSTS_PER_SECOND 1000
#define MAX_DEBT_NS 20000000u /* what a sender that did not run makes up for; the rest is never offered */

static unsigned char memory[BATCH * MAX_SIZE]; /* one slot a datagram; with GSO one after the other */
static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];

static void write_stamp(unsigned char *to, uint64_t sequence, uint64_t now)
{
    struct stamp stamp = {sequence, now};
    memcpy(to, &stamp, sizeof stamp);
}

/* To the conversation whose turn it is. */
static void address(const struct end *end, struct msghdr *message, int conversation)
{
    message->msg_name = end->near ? NULL : (void *)&end->peers[conversation];
    message->msg_namelen = end->near ? 0 : sizeof end->peers[0];
}

/* One message of `count` datagrams, cut by the kernel; how many it took. */
static int send_segments(int fd, struct msghdr message, uint64_t sequence, int count)
{
    size_t size = largest_size();
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++)
        write_stamp(memory + (size_t)i * size, sequence + (uint64_t)i, now);
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec whole = {memory, size * (size_t)count};
    message.msg_iov = &whole, message.msg_iovlen = 1;
    message.msg_control = control, message.msg_controllen = sizeof control;
    struct cmsghdr *option = CMSG_FIRSTHDR(&message);
    option->cmsg_level = SOL_UDP, option->cmsg_type = UDP_SEGMENT, option->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t segment = (uint16_t)size;
    memcpy(CMSG_DATA(option), &segment, sizeof segment);
    if (sendmsg(fd, &message, 0) < 0)
        return transient(errno) ? 0 : (die("sendmsg UDP_SEGMENT"), 0);
    return count;
}

/* `count` datagrams of one socket, `run` of each conversation from `first` on; how many the kernel took. */
static int send_messages(const struct end *end, int fd, uint64_t sequence, int count, int first, int run)
{
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        parts[i] = (struct iovec){memory + (size_t)i * MAX_SIZE, size_of(sequence + (uint64_t)i)};
        write_stamp(parts[i].iov_base, sequence + (uint64_t)i, now);
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
        address(end, &messages[i].msg_hdr, (first + i / run) % end->conversations);
    }
    int sent = sendmmsg(fd, messages, (unsigned)count, 0);
    return sent < 0 ? (transient(errno) ? 0 : (die("sendmmsg"), 0)) : sent;
}

struct sender {
    struct end *end;
    int segments, next; /* conversation */
    uint64_t offered, taken;
};

/* One burst. */
static void burst(struct sender *s, int count)
{
    struct end *end = s->end;
    int run = count / end->conversations ? count / end->conversations : 1;
    for (int done = 0; done < count; ) {
        int now = end->near || s->segments ? (count - done < run ? count - done : run) : count;
        int fd = end->sockets[end->near ? s->next : 0];
        if (s->segments) {
            struct msghdr message = {0};
            address(end, &message, s->next);
            s->taken += (uint64_t)send_segments(fd, message, s->offered, now);
        } else {
            s->taken += (uint64_t)send_messages(end, fd, s->offered, now, s->next, run);
        }
        s->offered += (uint64_t)now, done += now;
        s->next = (s->next + (end->near || s->segments ? 1 : count / run)) % end->conversations;
    }
}

static int burst_size(const struct options *o)
{
    int most = o->segments ? o->segments : BATCH;
    if (o->segments && (size_t)most * largest_size() > MAX_MESSAGE)
        most = (int)(MAX_MESSAGE / largest_size());
    if (o->rate <= 0 || o->rate / BURSTS_PER_SECOND >= most)
        return most;
    return o->rate < BURSTS_PER_SECOND ? 1 : (int)(o->rate / BURSTS_PER_SECOND);
}

void run_send(struct end *end, const struct options *o)
{
    struct sender s = {.end = end, .segments = o->segments};
    int count = burst_size(o);
    uint64_t start = now_ns(), stop_at = start + (uint64_t)(o->seconds * 1e9), now = start;
    double due = (double)start, step = o->rate > 0 ? count / o->rate * 1e9 : 0;
    while (!stopped && now < stop_at) {
        burst(&s, count);
        if (o->rate > 0) {
            due += step;
            now = now_ns();
            if ((double)now < due)
                sleep_until((uint64_t)due);
            else if ((double)now - due > MAX_DEBT_NS)
                due = (double)now - MAX_DEBT_NS;
        }
        now = now_ns();
    }
    printf("{\"offered\": %llu, \"taken\": %llu, \"seconds\": %.6f}\n", (unsigned long long)s.offered,
           (unsigned long long)s.taken, (double)(now - start) / 1e9);
}
