/* A UDP application for measurements.  Read main.c first: the command line, and what each mode does.
 *
 *   sockets.c  the sockets of one end, and how the far end learns its conversations
 *   sizes.c    which size each datagram has
 *   send.c     full load, or a rate in small bursts
 *   receive.c  counts what arrives, each datagram once
 *   trip.c     echo and round-trip meter
 */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64          /* datagrams of one system call */
#define MAX_SIZE 2048     /* bytes of one datagram */
#define MAX_MESSAGE 65507 /* bytes of one message with UDP_SEGMENT */
#define MAX_CONVERSATIONS 4096

/* Every datagram starts with this: loss, duplicates and round trips are counted, not guessed. */
struct stamp {
    uint64_t sequence;
    uint64_t sent_ns;
};
#define ECHO_BIT (1ull << 63) /* in `sequence`: send it back, and do not count it */
#define HELLO UINT64_MAX      /* as `sequence`: the near end shows its address */

struct options {
    const char *host, *port; /* no host: the far end */
    const char *sizes;
    double seconds, rate, load; /* a second */
    int segments, idle_ms, gro, echo, conversations;
};

/* One end.  Near: a connected socket for each conversation.  Far: one bound socket, and the address of each. */
struct end {
    int sockets[MAX_CONVERSATIONS];
    struct sockaddr_in6 peers[MAX_CONVERSATIONS];
    int near, conversations;
};

extern volatile sig_atomic_t stopped;

void die(const char *what);
int transient(int error);
uint64_t now_ns(void);
void sleep_until(uint64_t when_ns);

void open_end(struct end *end, const struct options *o);
void say_hello(struct end *end);            /* near: until the far end has sent something */
void await_hellos(struct end *end, int fd); /* far: until each conversation has shown its address */

void parse_sizes(const char *text); /* "1200", or "80x7,608x4,1400x1" */
size_t largest_size(void);
size_t size_of(uint64_t sequence);

void run_send(struct end *end, const struct options *o);
void run_receive(struct end *end, const struct options *o);
void run_echo(struct end *end);
void run_rtt(struct end *end, const struct options *o);

#endif
