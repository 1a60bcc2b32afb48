/* Ways to read from a packet socket, and to send on one, with nothing around them.
 *
 *   packet_socket receive DEVICE SECONDS recvmmsg|v2|v3 [BUSY_POLL_US]
 *   packet_socket send    DEVICE SECONDS PER_SECOND SEGMENTS CALLS
 *
 * A packet is TCP with 1,200 bytes of payload; SEGMENTS of them are one packet with a virtio header (GSO).  CALLS > 1:
 * so many packets go with one sendmmsg(2).  PER_SECOND counts packets that are handed over, 0 = as many as possible.
 * The receiver touches each cache line of what it reads.  Each prints one line of JSON; the receiver says "ready"
 * first.  `wait_us` is from send(2) until the receiver sees the packet.
 *
 * An experiment for docs/performance.md, and no part of what is installed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD 1200u
#define HEADERS 54u /* Ethernet, IPv4, TCP */
#define VNET sizeof(struct virtio_net_hdr)
#define MESSAGES 64u
#define BUFFER (64u << 10)
#define MARK 0x726e6662 /* in the acknowledgement number */
#define BLOCK (1u << 20)
#define BLOCKS 8u
#define FRAME (1u << 17) /* of version 2: the smallest power of two that takes 64 KiB and its header */
#define MAX_WAITS 2000000u

static uint64_t clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void check(bool good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static int open_socket(const char *device)
{
    int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
    check(fd >= 0, "socket");
    check(!setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one), "PACKET_VNET_HDR");
    (void)device;
    return fd;
}

static void attach(int fd, const char *device)
{
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
    where.sll_ifindex = (int)if_nametoindex(device);
    check(!bind(fd, (struct sockaddr *)&where, sizeof where), "bind");
}

/* -- receive */

static uint64_t packets, segments, bytes, calls;
static uint32_t *waits, wait_count;
static volatile uint64_t touched;

static void take(const uint8_t *ethernet, uint32_t length)
{
    uint32_t mark;
    uint64_t sent;
    if (length < HEADERS + PAYLOAD)
        return;
    memcpy(&mark, ethernet + 42, sizeof mark);
    if (mark != MARK)
        return;
    uint64_t sum = 0;
    for (uint32_t at = 0; at + 8 <= length; at += 64) {
        uint64_t word;
        memcpy(&word, ethernet + at, sizeof word);
        sum += word;
    }
    touched += sum;
    memcpy(&sent, ethernet + HEADERS, sizeof sent);
    if (wait_count < MAX_WAITS)
        waits[wait_count++] = (uint32_t)(clock_ns(CLOCK_MONOTONIC) - sent);
    packets++;
    segments += (length - HEADERS) / PAYLOAD;
    bytes += length;
}

static void wait_for(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    poll(&ready, 1, 100);
    calls++;
}

static void receive_messages(int fd, uint64_t end)
{
    static struct mmsghdr messages[MESSAGES];
    static struct iovec vectors[MESSAGES];
    uint8_t *buffers = mmap(NULL, MESSAGES * (BUFFER + 64), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(buffers != MAP_FAILED, "mmap");
    for (uint32_t i = 0; i < MESSAGES; i++) {
        vectors[i] = (struct iovec){buffers + (size_t)i * (BUFFER + 64), BUFFER + 64};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    while (clock_ns(CLOCK_MONOTONIC) < end) {
        wait_for(fd);
        int count = recvmmsg(fd, messages, MESSAGES, MSG_DONTWAIT, NULL);
        calls++;
        for (int i = 0; i < count; i++)
            take((uint8_t *)vectors[i].iov_base + VNET, messages[i].msg_len - (uint32_t)VNET);
    }
}

static uint8_t *map_ring(int fd, int version)
{
    struct tpacket_req3 size = {.tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME};
    size.tp_frame_nr = BLOCK / FRAME * BLOCKS;
    size.tp_retire_blk_tov = 1; /* ms: the shortest */
    check(!setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version), "PACKET_VERSION");
    socklen_t length = version == TPACKET_V3 ? sizeof size : sizeof(struct tpacket_req);
    check(!setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &size, length), "PACKET_RX_RING");
    uint8_t *ring = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(ring != MAP_FAILED, "mmap");
    return ring;
}

static void receive_frames(int fd, uint8_t *ring, uint64_t end)
{
    for (uint32_t at = 0; clock_ns(CLOCK_MONOTONIC) < end;) {
        struct tpacket2_hdr *frame = (struct tpacket2_hdr *)(ring + (size_t)at * FRAME);
        if (!(__atomic_load_n(&frame->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            wait_for(fd);
            continue;
        }
        take((uint8_t *)frame + frame->tp_mac, frame->tp_snaplen);
        __atomic_store_n(&frame->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = (at + 1) % (BLOCK / FRAME * BLOCKS);
    }
}

static void receive_blocks(int fd, uint8_t *ring, uint64_t end)
{
    for (uint32_t at = 0; clock_ns(CLOCK_MONOTONIC) < end;) {
        struct tpacket_block_desc *block = (struct tpacket_block_desc *)(ring + (size_t)at * BLOCK);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            wait_for(fd);
            continue;
        }
        uint8_t *packet = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
            struct tpacket3_hdr *frame = (struct tpacket3_hdr *)packet;
            take(packet + frame->tp_mac, frame->tp_snaplen);
            packet += frame->tp_next_offset;
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        at = (at + 1) % BLOCKS;
    }
}

static int by_size(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void receive(const char *device, double seconds, const char *way, int busy)
{
    int fd = open_socket(device), room = 32 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    if (busy)
        check(!setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &busy, sizeof busy), "SO_BUSY_POLL");
    waits = malloc(MAX_WAITS * sizeof *waits);
    check(waits, "malloc");
    bool v3 = !strcmp(way, "v3"), ring_wanted = v3 || !strcmp(way, "v2");
    uint8_t *ring = ring_wanted ? map_ring(fd, v3 ? TPACKET_V3 : TPACKET_V2) : NULL;
    attach(fd, device);
    puts("ready");
    fflush(stdout);
    double before = cpu_seconds();
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    if (v3)
        receive_blocks(fd, ring, end);
    else if (ring)
        receive_frames(fd, ring, end);
    else
        receive_messages(fd, end);
    double used = cpu_seconds() - before;
    unsigned napi = 0;
    socklen_t length = sizeof napi;
    getsockopt(fd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &length);
    qsort(waits, wait_count, sizeof *waits, by_size);
    printf("{\"packets\": %llu, \"segments\": %llu, \"cpu\": %.4f, \"calls\": %llu, \"p50\": %.1f, \"p99\": %.1f, "
           "\"napi\": %u}\n",
           (unsigned long long)packets, (unsigned long long)segments, used, (unsigned long long)calls,
           wait_count ? waits[wait_count / 2] / 1e3 : 0, wait_count ? waits[wait_count * 99ull / 100] / 1e3 : 0, napi);
}

/* -- send */

static uint32_t build(uint8_t *out, uint32_t count)
{
    struct virtio_net_hdr *virtio = (struct virtio_net_hdr *)out;
    uint8_t *ethernet = out + VNET, *ip = ethernet + 14, *tcp = ip + 20;
    uint32_t payload = PAYLOAD * count, mark = MARK;
    memset(out, 0, VNET + HEADERS);
    virtio->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    virtio->csum_start = 34;
    virtio->csum_offset = 16;
    if (count > 1) {
        virtio->gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
        virtio->gso_size = PAYLOAD;
        virtio->hdr_len = HEADERS;
    }
    memset(ethernet, 0xFF, 6); /* broadcast: nobody's address is needed */
    ethernet[12] = 0x08;
    ip[0] = 0x45;
    ip[2] = (uint8_t)((40 + payload) >> 8);
    ip[3] = (uint8_t)(40 + payload);
    ip[8] = 64;
    ip[9] = IPPROTO_TCP;
    ip[12] = ip[16] = 10;
    ip[15] = 1;
    ip[19] = 2;
    tcp[12] = 0x50;
    tcp[13] = 0x18;
    memcpy(tcp + 8, &mark, sizeof mark);
    return (uint32_t)VNET + HEADERS + payload;
}

static void send_packets(const char *device, double seconds, double rate, uint32_t count, uint32_t at_once)
{
    static struct mmsghdr messages[MESSAGES];
    static struct iovec vectors[MESSAGES];
    int fd = open_socket(device), room = 32 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device), .sll_halen = 6};
    memset(where.sll_addr, 0xFF, 6);
    where.sll_protocol = htons(ETH_P_IP);
    check(at_once >= 1 && at_once <= MESSAGES && count >= 1 && count <= 50, "arguments");
    uint8_t *buffer = malloc(MESSAGES * (BUFFER + 64));
    check(buffer, "malloc");
    for (uint32_t i = 0; i < at_once; i++) {
        uint8_t *packet = buffer + (size_t)i * (BUFFER + 64);
        vectors[i] = (struct iovec){packet, build(packet, count)};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &where, .msg_namelen = sizeof where, .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    double before = cpu_seconds();
    uint64_t start = clock_ns(CLOCK_MONOTONIC), end = start + (uint64_t)(seconds * 1e9), sent = 0, now;
    while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
        if (rate > 0 && (double)sent >= (double)(now - start) / 1e9 * rate) {
            struct timespec pause = {.tv_nsec = 20000};
            nanosleep(&pause, NULL);
            continue;
        }
        for (uint32_t i = 0; i < at_once; i++)
            memcpy((uint8_t *)vectors[i].iov_base + VNET + HEADERS, &now, sizeof now);
        int done = at_once > 1 ? sendmmsg(fd, messages, at_once, 0) : (int)(sendmsg(fd, &messages[0].msg_hdr, 0) > 0);
        sent += done > 0 ? (uint64_t)done : 0;
    }
    printf("{\"sent\": %llu, \"cpu\": %.4f}\n", (unsigned long long)sent, cpu_seconds() - before);
}

int main(int argc, char **argv)
{
    if (argc >= 5 && !strcmp(argv[1], "receive"))
        receive(argv[2], atof(argv[3]), argv[4], argc > 5 ? atoi(argv[5]) : 0);
    else if (argc == 7 && !strcmp(argv[1], "send"))
        send_packets(argv[2], atof(argv[3]), atof(argv[4]), (uint32_t)atoi(argv[5]), (uint32_t)atoi(argv[6]));
    else
        return 2;
    return 0;
}
