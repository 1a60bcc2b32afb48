/* IP and TCP headers of a burst, and checksums.  Twin: core/tcp/segment.py (HeaderTemplate), core/tcp/checksum.py. */
#include "hot.h"

#define OUR_WINDOW 65535u

/* The ones' complement sum of big-endian words (RFC 1071), not folded; an odd last byte is padded with zero. */
uint32_t checksum_add(const uint8_t *data, uint32_t length)
{
    uint64_t sum = 0;
    for (; length >= 4; data += 4, length -= 4)
        sum += get32(data);
    if (length >= 2) {
        sum += get16(data);
        data += 2;
        length -= 2;
    }
    if (length)
        sum += (uint32_t)data[0] << 8;
    return checksum_fold(sum);
}

/* To 16 bits, with end-around carry: 0 only for 0. */
uint32_t checksum_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint32_t)sum;
}

static uint32_t pseudo_header(const uint8_t *ip, uint32_t tcp_bytes)
{
    bool v4 = ip[0] >> 4 == 4;
    uint32_t addresses = v4 ? checksum_add(ip + 12, 8) : checksum_add(ip + 8, 32);
    return checksum_fold((uint64_t)addresses + tcp_bytes + IPPROTO_TCP);
}

/* Whether the checksums of a received segment are right.  total: the end of the segment; tcp: where TCP begins. */
bool checksums_valid(const uint8_t *ip, uint32_t total, uint32_t tcp)
{
    if (ip[0] >> 4 == 4 && checksum_add(ip, tcp) != 0xFFFF)
        return false;
    return checksum_fold((uint64_t)pseudo_header(ip, total - tcp) + checksum_add(ip + tcp, total - tcp)) == 0xFFFF;
}

/* The headers of a burst of payload_bytes that will be cut into so many segments; 40 or 60 bytes.  The TCP checksum
 * field holds the pseudo-header's sum, folded, not complemented, as VIRTIO_NET_HDR_F_NEEDS_CSUM asks for. */
uint32_t build_headers(hot_flow *flow, uint32_t payload_bytes, uint32_t segments, uint8_t flags, uint8_t *out)
{
    uint32_t bytes = flow->header_bytes, tcp_bytes = payload_bytes + 20;
    memcpy(out, flow->headers, bytes);
    if (bytes == 40) {
        put16(out + 2, tcp_bytes + 20);
        put16(out + 4, flow->identification);
        put16(out + 10, 0);
        put16(out + 10, ~checksum_add(out, 20) & 0xFFFF);
        flow->identification = (uint16_t)(flow->identification + segments);
    } else {
        put16(out + 4, tcp_bytes);
    }
    uint8_t *tcp = out + bytes - 20;
    put32(tcp + 4, flow->next_seq);
    put32(tcp + 8, flow->received);
    tcp[12] = 0x50;
    tcp[13] = flags;
    put16(tcp + 14, OUR_WINDOW);
    put16(tcp + 16, pseudo_header(out, tcp_bytes));
    return bytes;
}
