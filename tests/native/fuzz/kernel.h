/* A simulated kernel for the native data path: the system calls of rsock_nf/native/c (see renamed.h).
 *
 * Descriptors are small numbers, time moves only when it is read or waited for, and what a call brings or refuses is
 * decided by the input of the fuzzer.  Every byte that leaves is read, so that AddressSanitizer sees it.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "hot.h"

enum { DESCRIPTORS = 32, QUEUED = 64 };

/* What a descriptor will bring with its next reads. */
typedef struct {
    uint8_t *data;
    uint32_t length;
    uint8_t name[32], control[96] __attribute__((aligned(8)));
    uint32_t name_bytes, control_bytes;
    int flags;
} message;

/* Forget every descriptor, and all that waits. */
void kernel_reset(void);
/* A new descriptor. */
int kernel_open(void);
void kernel_close(int fd);
/* One more message for a descriptor; the bytes are copied.  false = its queue is full. */
bool kernel_queue(int fd, const message *m);
/* Sends fail with this errno, so many times. */
void kernel_refuse(int error, uint32_t times);
/* Reads say that their messages have waited for so long. */
void kernel_late(int64_t nanoseconds);
void kernel_pass(int64_t nanoseconds);

/* Called for each packet that leaves by a packet socket, and for each datagram (or run of them) to a socket. */
extern void (*kernel_sent_packet)(const uint8_t *data, size_t bytes);
extern void (*kernel_sent_datagrams)(const struct msghdr *told);

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            failed(#condition, __FILE__, __LINE__);                                                                    \
    } while (0)
void failed(const char *condition, const char *file, int line);

#endif
