/* What must hold whatever arrives: looked at before and after each operation, and at everything that leaves. */
#ifndef CHECKS_H
#define CHECKS_H

#include "world.h"

/* Remember the numbers of all flows and conversations. */
void checks_before(void);
/* They have moved only as a packet or a datagram may move them. */
void checks_after(void);
/* What hot_wait left is whole, and inside its buffers. */
void check_left(void);
/* Called for each packet and each datagram that leaves. */
void check_packet(const uint8_t *data, size_t bytes);
void check_datagrams(const struct msghdr *told);

#endif
