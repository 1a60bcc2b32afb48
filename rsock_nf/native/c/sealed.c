/* Sealed data frames: AES-256-GCM or ChaCha20-Poly1305, and masked headers.
 * Twin: SealedCodec in wire/native/frames.py; docs/wire.md has every byte.
 *
 * The AEADs and AES are libcrypto's (EVP).  Without it this file says so, and sealed sessions go through Python.
 */
#include "hot.h"

#ifndef HOT_WITHOUT_CRYPTO

#include <openssl/evp.h>

#define SAMPLE 16u
#define COUNTER_BITS 31

struct hot_keys {
    int cipher;
    EVP_CIPHER_CTX *mask_out, *mask_in;
    EVP_CIPHER_CTX *out;
    uint32_t out_bit;
    EVP_CIPHER_CTX *in[2]; /* by the bit of the epoch; NULL = left to Python */
};

int hot_has_crypto(void) { return 1; }

static EVP_CIPHER_CTX *context(const EVP_CIPHER *cipher, const uint8_t *key, int encrypt)
{
    EVP_CIPHER_CTX *made = EVP_CIPHER_CTX_new();
    if (made && EVP_CipherInit_ex(made, cipher, NULL, key, NULL, encrypt) == 1)
        return made;
    EVP_CIPHER_CTX_free(made);
    return NULL;
}

static EVP_CIPHER_CTX *mask(const uint8_t *key)
{
    EVP_CIPHER_CTX *made = context(EVP_aes_128_ecb(), key, 1);
    if (made)
        EVP_CIPHER_CTX_set_padding(made, 0);
    return made;
}

static EVP_CIPHER_CTX *aead(const hot_keys *keys, const uint8_t *key, int encrypt)
{
    return context(keys->cipher == CIPHER_AES ? EVP_aes_256_gcm() : EVP_chacha20_poly1305(), key, encrypt);
}

hot_keys *hot_keys_new(int cipher, const uint8_t *mask_out, const uint8_t *mask_in)
{
    hot_keys *keys = calloc(1, sizeof *keys);
    if (!keys)
        return NULL;
    keys->cipher = cipher;
    keys->mask_out = mask(mask_out);
    keys->mask_in = mask(mask_in);
    if (keys->mask_out && keys->mask_in)
        return keys;
    hot_keys_free(keys);
    return NULL;
}

void hot_keys_free(hot_keys *keys)
{
    if (!keys)
        return;
    EVP_CIPHER_CTX_free(keys->mask_out);
    EVP_CIPHER_CTX_free(keys->mask_in);
    EVP_CIPHER_CTX_free(keys->out);
    EVP_CIPHER_CTX_free(keys->in[0]);
    EVP_CIPHER_CTX_free(keys->in[1]);
    free(keys);
}

/* The key to send with, in the epoch that has this bit.  Returns 0, or -1 if libcrypto refuses it. */
int hot_keys_send(hot_keys *keys, int bit, const uint8_t *key)
{
    EVP_CIPHER_CTX_free(keys->out);
    keys->out_bit = (uint32_t)bit & 1;
    keys->out = aead(keys, key, 1);
    return keys->out ? 0 : -1;
}

/* The key of what comes with this bit; NULL = leave it to Python. */
int hot_keys_receive(hot_keys *keys, int bit, const uint8_t *key)
{
    EVP_CIPHER_CTX **slot = &keys->in[bit & 1];
    EVP_CIPHER_CTX_free(*slot);
    *slot = key ? aead(keys, key, 0) : NULL;
    return !key || *slot ? 0 : -1;
}

static void nonce_of(uint32_t number, uint8_t nonce[12])
{
    memset(nonce, 0, 8);
    put32(nonce + 8, number);
}

/* The masks of so many samples, one behind the other. */
static bool masks(EVP_CIPHER_CTX *mask, uint8_t *samples, uint32_t count)
{
    int written = 0;
    return EVP_EncryptUpdate(mask, samples, &written, samples, (int)(count * SAMPLE)) == 1;
}

static void apply(uint8_t *header, const uint8_t *mask)
{
    for (uint32_t i = 0; i < FRAME_HEADER; i++)
        header[i] ^= mask[i];
}

static bool seal(EVP_CIPHER_CTX *out, uint32_t number, const uint8_t *header, hot_piece piece, uint8_t *body)
{
    uint8_t nonce[12];
    int n = 0, length = (int)piece.length;
    nonce_of(number, nonce);
    return EVP_EncryptInit_ex(out, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(out, NULL, &n, header, FRAME_HEADER) == 1 &&
           (!length || EVP_EncryptUpdate(out, body, &n, piece.data, length) == 1) &&
           EVP_EncryptFinal_ex(out, body + length, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(out, EVP_CTRL_AEAD_GET_TAG, FRAME_TAG, body + length) == 1;
}

/* One sealed frame for each piece, with the flow's next counters.  Returns the bytes written; 0 = libcrypto failed. */
uint32_t sealed_pack(const hot_flow *flow, uint16_t number, const hot_piece *pieces, uint32_t count, uint8_t *out)
{
    uint8_t samples[SAMPLE * MAX_FRAMES];
    hot_keys *keys = flow->keys;
    uint32_t sequence = keys->out_bit << COUNTER_BITS | (uint32_t)flow->counter;
    uint8_t *at = out;
    if (!keys->out || !count || count > MAX_FRAMES)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        put16(at, KIND_DATA << 14 | pieces[i].length);
        put16(at + 2, number);
        put32(at + 4, sequence + i);
        if (!seal(keys->out, sequence + i, at, pieces[i], at + FRAME_HEADER))
            return 0;
        memcpy(samples + i * SAMPLE, at + FRAME_HEADER, SAMPLE);
        at += FRAME_HEADER + pieces[i].length + FRAME_TAG;
    }
    if (!masks(keys->mask_out, samples, count))
        return 0;
    uint8_t *header = out;
    for (uint32_t i = 0; i < count; i++) {
        apply(header, samples + i * SAMPLE);
        header += FRAME_HEADER + pieces[i].length + FRAME_TAG;
    }
    return (uint32_t)(at - out);
}

static bool unseal(EVP_CIPHER_CTX *in, uint32_t number, const uint8_t *header, const uint8_t *body, uint32_t length,
                   uint8_t *out)
{
    uint8_t nonce[12], tag[FRAME_TAG], none[FRAME_TAG];
    int n = 0;
    nonce_of(number, nonce);
    memcpy(tag, body + length, FRAME_TAG);
    return EVP_DecryptInit_ex(in, NULL, NULL, NULL, nonce) == 1 &&
           EVP_DecryptUpdate(in, NULL, &n, header, FRAME_HEADER) == 1 &&
           (!length || EVP_DecryptUpdate(in, out, &n, body, (int)length) == 1) &&
           EVP_CIPHER_CTX_ctrl(in, EVP_CTRL_AEAD_SET_TAG, FRAME_TAG, tag) == 1 &&
           EVP_DecryptFinal_ex(in, none, &n) == 1;
}

/* The masks of all frames of a burst, which begin at multiples of segment_size; returns how many. */
static uint32_t burst_masks(EVP_CIPHER_CTX *mask, const uint8_t *payload, uint32_t size, uint32_t segment_size,
                            uint8_t *samples)
{
    uint32_t count = 0;
    for (uint32_t at = 0; at + FRAME_HEADER + SAMPLE <= size && count < MAX_FRAMES; at += segment_size)
        memcpy(samples + SAMPLE * count++, payload + at + FRAME_HEADER, SAMPLE);
    return count && masks(mask, samples, count) ? count : 0;
}

/* The frames of a payload into e->frames, their datagrams opened behind e->opened_bytes.
 * 0 = some frame is not data of an open conversation, or does not authenticate. */
uint32_t sealed_open(hot_engine *e, const hot_flow *flow, const uint8_t *payload, uint32_t size,
                     uint32_t segment_size)
{
    uint8_t samples[SAMPLE * MAX_FRAMES], one[SAMPLE], header[FRAME_HEADER];
    hot_keys *keys = flow->keys;
    hot_conversation *conversation = NULL;
    uint32_t step = segment_size ? segment_size : size, count = 0, opened = e->opened_bytes;
    uint32_t masked = burst_masks(keys->mask_in, payload, size, step, samples);
    for (uint32_t at = 0; at < size;) {
        if (size - at < FRAME_HEADER + FRAME_TAG || count == MAX_FRAMES)
            return 0;
        const uint8_t *mask = one;
        if (at % step == 0 && at / step < masked) {
            mask = samples + at / step * SAMPLE;
        } else {
            memcpy(one, payload + at + FRAME_HEADER, SAMPLE);
            if (!masks(keys->mask_in, one, 1))
                return 0;
        }
        memcpy(header, payload + at, FRAME_HEADER);
        apply(header, mask);
        uint32_t word = get16(header), length = word & 0x3FFF, number = get32(header + 4);
        uint16_t to = get16(header + 2);
        EVP_CIPHER_CTX *in = keys->in[number >> COUNTER_BITS];
        if (word >> 14 != KIND_DATA || !in || length > size - at - FRAME_HEADER - FRAME_TAG)
            return 0;
        if (!conversation || conversation->number != to)
            conversation = conversation_of(e, flow->group, to);
        if (!conversation || !conversation->out || length > OPENED_BYTES - opened)
            return 0;
        if (!unseal(in, number, header, payload + at + FRAME_HEADER, length, e->opened + opened))
            return 0;
        uint32_t end = at + FRAME_HEADER + length + FRAME_TAG;
        uint64_t counter = number & ((1u << COUNTER_BITS) - 1);
        e->frames[count++] = (data_frame){conversation, counter, e->opened + opened, length, end};
        opened += length;
        at = end;
    }
    return count;
}

#else /* without libcrypto */

int hot_has_crypto(void) { return 0; }
hot_keys *hot_keys_new(int cipher, const uint8_t *mask_out, const uint8_t *mask_in)
{
    (void)cipher, (void)mask_out, (void)mask_in;
    return NULL;
}
void hot_keys_free(hot_keys *keys) { (void)keys; }
int hot_keys_send(hot_keys *keys, int bit, const uint8_t *key)
{
    (void)keys, (void)bit, (void)key;
    return -1;
}
int hot_keys_receive(hot_keys *keys, int bit, const uint8_t *key)
{
    (void)keys, (void)bit, (void)key;
    return -1;
}
uint32_t sealed_pack(const hot_flow *flow, uint16_t number, const hot_piece *pieces, uint32_t count, uint8_t *out)
{
    (void)flow, (void)number, (void)pieces, (void)count, (void)out;
    return 0;
}
uint32_t sealed_open(hot_engine *e, const hot_flow *flow, const uint8_t *payload, uint32_t size,
                     uint32_t segment_size)
{
    (void)e, (void)flow, (void)payload, (void)size, (void)segment_size;
    return 0;
}

#endif
