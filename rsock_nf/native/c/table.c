/* A hash table from keys of up to 64 bytes to pointers: open addressing, linear probing.
 *
 * The keys come from Python, which puts in only what has authenticated; look-ups may be of anything.  The seed keeps
 * strangers from choosing keys that collide.
 */
#include "hot.h"

struct table_entry {
    uint64_t hash; /* 0 = free, 1 = removed */
    void *value;
    uint32_t length;
    uint8_t key[KEY_BYTES];
};

/* Multiply and fold, eight bytes at a time (the mixing step of wyhash). */
static uint64_t hash_of(const table *t, const uint8_t *key, uint32_t length)
{
    uint64_t h = t->seed ^ length;
    for (uint32_t at = 0; at < length; at += 8) {
        uint64_t word = 0;
        uint32_t n = length - at < 8 ? length - at : 8;
        memcpy(&word, key + at, n);
        unsigned __int128 product = (unsigned __int128)(h ^ word) * 0x9E3779B97F4A7C15ull;
        h = (uint64_t)product ^ (uint64_t)(product >> 64) ^ t->seed;
    }
    return h < 2 ? h + 2 : h;
}

static int grow(table *t, uint32_t size)
{
    struct table_entry *old = t->entries, *entries = calloc(size, sizeof *entries);
    uint32_t count = old ? t->mask + 1 : 0;
    if (!entries)
        return -1;
    t->entries = entries;
    t->mask = size - 1;
    t->filled = t->used;
    for (uint32_t i = 0; i < count; i++) {
        if (old[i].hash < 2)
            continue;
        uint32_t at = (uint32_t)old[i].hash & t->mask;
        while (entries[at].hash)
            at = (at + 1) & t->mask;
        entries[at] = old[i];
    }
    free(old);
    return 0;
}

int table_init(table *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->seed = seed | 1;
    return grow(t, 64);
}

void table_free(table *t)
{
    free(t->entries);
    t->entries = NULL;
}

static struct table_entry *find(const table *t, const void *key, uint32_t length, uint64_t hash)
{
    for (uint32_t at = (uint32_t)hash & t->mask; t->entries[at].hash; at = (at + 1) & t->mask) {
        struct table_entry *entry = &t->entries[at];
        if (entry->hash == hash && entry->length == length && !memcmp(entry->key, key, length))
            return entry;
    }
    return NULL;
}

void *table_get(const table *t, const void *key, uint32_t length)
{
    struct table_entry *entry = find(t, key, length, hash_of(t, key, length));
    return entry ? entry->value : NULL;
}

int table_put(table *t, const void *key, uint32_t length, void *value)
{
    if (length > KEY_BYTES)
        return -1;
    uint64_t hash = hash_of(t, key, length);
    struct table_entry *entry = find(t, key, length, hash);
    if (entry) {
        entry->value = value;
        return 0;
    }
    if ((t->filled + 1) * 2 > t->mask && grow(t, t->used * 4 > t->mask ? (t->mask + 1) * 2 : t->mask + 1))
        return -1;
    uint32_t at = (uint32_t)hash & t->mask;
    while (t->entries[at].hash > 1)
        at = (at + 1) & t->mask;
    t->filled += t->entries[at].hash == 0;
    t->used++;
    t->entries[at] = (struct table_entry){.hash = hash, .value = value, .length = length};
    memcpy(t->entries[at].key, key, length);
    return 0;
}

void table_remove(table *t, const void *key, uint32_t length, const void *value)
{
    struct table_entry *entry = find(t, key, length, hash_of(t, key, length));
    if (entry && entry->value == value) {
        entry->hash = 1;
        entry->value = NULL;
        t->used--;
    }
}
