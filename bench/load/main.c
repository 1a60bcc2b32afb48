/* The command line.  The near end is the application, the far end is the target.
 *
 *   udp_load send    -h HOST -p PORT -s SIZES -t SECONDS [-r PER_SECOND] [-g SEGMENTS] [-c CONVERSATIONS]
 *   udp_load receive -p PORT [-t SECONDS] [-i IDLE_MS] [-g] [-e]
 *
 * is load from the near to the far end.  The other way round, the far end has -c and no host:
 *
 *   udp_load send    -p PORT -c CONVERSATIONS -s SIZES -t SECONDS [...]
 *   udp_load receive -h HOST -p PORT [-c CONVERSATIONS] [...]
 *
 * and `both`, with the options of `send`, is load both ways at once.  Round trips:
 *
 *   udp_load rtt     -h HOST -p PORT -s SIZE -t SECONDS [-r PER_SECOND] [-b PER_SECOND]
 *   udp_load echo    -p PORT
 *
 * SIZES is one size, or a mix: "80x7,608x4,1400x1" is 7 of 12 datagrams with 80 bytes, and so on.  -g: an application
 * with UDP_SEGMENT and UDP_GRO.  -t of `receive` is how long to wait for the first datagram, -i how long after the last.
 * -b is load beside the round trips; then the far end is `receive -e`, which counts the load and sends the rest back.
 *
 * The far end, and `receive`, say "ready" first.  Then each prints one line of JSON; `both` prints what `receive` prints
 * and then what `send` prints, `rtt -b` what `send` prints and then its own.
 *
 * Not a tunnel, and not part of what is installed.
 */
#include "load.h"

#include <getopt.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

void die(const char *what)
{
    fprintf(stderr, "udp_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

int transient(int error)
{
    return error == ECONNREFUSED || error == ENOBUFS || error == EINTR || error == EAGAIN;
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void sleep_until(uint64_t when_ns)
{
    struct timespec when = {(time_t)(when_ns / 1000000000u), (long)(when_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR && !stopped) { }
}

static void say_ready(void)
{
    puts("ready"), fflush(stdout);
}

/* Two processes on the same sockets: a thread would need two of everything, too. */
static void run_both(struct end *end, const struct options *o)
{
    pid_t receiver = fork();
    if (receiver < 0)
        die("fork");
    if (receiver == 0) {
        run_receive(end, o);
        fflush(stdout);
        _exit(0);
    }
    run_send(end, o);
    while (waitpid(receiver, NULL, 0) < 0 && errno == EINTR) { }
}

static int usage(void)
{
    fprintf(stderr, "usage: udp_load send|receive|both|echo|rtt -p PORT [-h HOST] [-s 16..2048] ... (see the source)\n");
    return 2;
}

/* 0, or which status to exit with. */
static int parse(int argc, char **argv, const char *mode, struct options *o)
{
    int receiving = !strcmp(mode, "receive"), option;
    optind = 2;
    while ((option = getopt(argc, argv, receiving ? "h:p:t:i:gec:" : "h:p:s:t:i:r:g:c:b:")) != -1) {
        switch (option) {
        case 'h': o->host = optarg; break;
        case 'p': o->port = optarg; break;
        case 's': o->sizes = optarg; break;
        case 't': o->seconds = atof(optarg); break;
        case 'r': o->rate = atof(optarg); break;
        case 'b': o->load = atof(optarg); break;
        case 'i': o->idle_ms = atoi(optarg); break;
        case 'c': o->conversations = atoi(optarg); break;
        case 'e': o->echo = 1; break;
        case 'g': o->gro = 1, o->segments = receiving ? 0 : atoi(optarg); break;
        default: return 2;
        }
    }
    parse_sizes(o->sizes);
    if (!o->port || o->segments > BATCH || o->conversations < 1 || o->conversations > MAX_CONVERSATIONS)
        return usage();
    return !strcmp(mode, "rtt") && !o->host ? usage() : 0;
}

int main(int argc, char **argv)
{
    struct options o = {.sizes = "1200", .seconds = 3, .idle_ms = 500, .conversations = 1};
    const char *mode = argc > 1 ? argv[1] : "";
    int status = parse(argc, argv, mode, &o);
    if (status)
        return status;
    struct sigaction action = {.sa_handler = stop}; /* no SA_RESTART: a blocked recvmmsg returns */
    sigaction(SIGTERM, &action, NULL), sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1ul); /* 50 us otherwise: as long as a small burst takes */
    static struct end end;
    open_end(&end, &o);
    int sends = !strcmp(mode, "send") || !strcmp(mode, "both"), receives = !strcmp(mode, "receive");
    if (receives || !strcmp(mode, "echo") || (sends && !end.near))
        say_ready();
    if (end.near && (receives || !strcmp(mode, "both")))
        say_hello(&end);
    if (sends && !end.near)
        await_hellos(&end, end.sockets[0]);
    if (!strcmp(mode, "both")) run_both(&end, &o);
    else if (sends) run_send(&end, &o);
    else if (receives) run_receive(&end, &o);
    else if (!strcmp(mode, "echo")) run_echo(&end);
    else if (!strcmp(mode, "rtt")) run_rtt(&end, &o);
    else return usage();
    return 0;
}
