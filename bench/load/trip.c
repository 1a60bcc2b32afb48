/* Round trips: the echo, and the meter that sends one datagram after the other and waits for each that comes back. */
#include "load.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_RATE 1000
#define LEAD_NS 300000000u /* how long the load runs before the first round trip, and after the last */
#define LAST_NS 300000000u /* how long the last answers may take */

void run_echo(struct end *end)
{
    static unsigned char memory[BATCH][MAX_SIZE];
    static struct sockaddr_storage from[BATCH];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    int fd = end->sockets[0];
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
    unsigned char data[MAX_SIZE];
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

/* Microseconds; -1 = nothing came back. */
static double quantile(const uint64_t *trips, size_t count, double share)
{
    size_t at = (size_t)((double)count * share);
    return count ? (double)trips[at < count ? at : count - 1] / 1e3 : -1;
}

/* Load on the same socket: a relay answers whoever sent last.  Its sender is another process. */
static pid_t start_load(struct end *end, const struct options *o)
{
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        struct options load = *o;
        load.rate = o->load, load.seconds = o->seconds + 2 * LEAD_NS / 1e9;
        run_send(end, &load);
        fflush(stdout);
        _exit(0);
    }
    sleep_until(now_ns() + LEAD_NS);
    return child;
}

/* One datagram every 1 / rate seconds; how many came back. */
static size_t measure_trips(int fd, double rate, size_t total, uint64_t *trips)
{
    static unsigned char memory[MAX_SIZE];
    size_t count = 0;
    uint64_t start = now_ns();
    for (size_t i = 0; i < total && !stopped; i++) {
        struct stamp stamp = {i | ECHO_BIT, now_ns()};
        memcpy(memory, &stamp, sizeof stamp);
        if (send(fd, memory, largest_size(), 0) < 0 && !transient(errno))
            die("send");
        count = collect(fd, start + (uint64_t)((double)(i + 1) / rate * 1e9), trips, count, total);
    }
    return collect(fd, now_ns() + LAST_NS, trips, count, total);
}

void run_rtt(struct end *end, const struct options *o)
{
    double rate = o->rate > 0 ? o->rate : DEFAULT_RATE;
    size_t total = (size_t)(o->seconds * rate);
    uint64_t *trips = calloc(total + 1, sizeof *trips);
    if (!trips)
        die("memory");
    pid_t child = o->load > 0 ? start_load(end, o) : -1;
    size_t count = measure_trips(end->sockets[0], rate, total, trips);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) { }
    qsort(trips, count, sizeof *trips, ascending);
    printf("{\"offered\": %zu, \"received\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}\n", total,
           count, quantile(trips, count, 0.5), quantile(trips, count, 0.99), quantile(trips, count, 0.999));
}
