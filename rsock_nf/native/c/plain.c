/* Data frames of cipher: none.  Twin: PlainCodec in wire/native/frames.py; docs/wire.md has every byte. */
#include "hot.h"

/* One frame for each piece.  Returns the bytes written. */
uint32_t plain_pack(const hot_flow *flow, uint16_t number, const hot_piece *pieces, uint32_t count, uint8_t *out)
{
    uint8_t *at = out;
    for (uint32_t i = 0; i < count; i++) {
        put16(at, KIND_DATA << 14 | pieces[i].length);
        put16(at + 2, number);
        put32(at + 4, flow->token_out);
        memcpy(at + FRAME_HEADER, pieces[i].data, pieces[i].length);
        at += FRAME_HEADER + pieces[i].length;
    }
    return (uint32_t)(at - out);
}

/* The frames of a payload into e->frames.  0 = some frame is not data of an open conversation. */
uint32_t plain_open(hot_engine *e, const hot_flow *flow, const uint8_t *payload, uint32_t size)
{
    hot_conversation *conversation = NULL;
    uint32_t count = 0;
    for (uint32_t at = 0; at < size;) {
        if (size - at < FRAME_HEADER || count == MAX_FRAMES)
            return 0;
        uint32_t word = get16(payload + at), length = word & 0x3FFF;
        uint16_t number = get16(payload + at + 2);
        if (word >> 14 != KIND_DATA || get32(payload + at + 4) != flow->token_in || length > size - at - FRAME_HEADER)
            return 0;
        if (!conversation || conversation->number != number)
            conversation = conversation_of(e, flow->group, number);
        if (!conversation || !conversation->out)
            return 0;
        uint32_t end = at + FRAME_HEADER + length;
        e->frames[count++] = (data_frame){conversation, 0, payload + at + FRAME_HEADER, length, end};
        at = end;
    }
    return count;
}
