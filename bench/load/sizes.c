/* Which size each datagram has.  A mix is dealt out in a fixed random order, the same in every run. */
#include "load.h"

#define ROUND 1200 /* datagrams after which the order repeats: whole mixes of 2, 3, 4, 5, 6, 8, 10 and 12 */

static size_t order[ROUND], largest;
static int single = 1;

static void refuse(const char *text)
{
    fprintf(stderr, "udp_load: sizes %s: give 16..%d, or SIZExCOUNT,SIZExCOUNT\n", text, MAX_SIZE);
    exit(2);
}

static void shuffle(void)
{
    uint64_t state = 88172645463325252u; /* xorshift64, Marsaglia 2003 */
    for (size_t i = ROUND - 1; i > 0; i--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t other = (size_t)(state % (i + 1)), kept = order[i];
        order[i] = order[other], order[other] = kept;
    }
}

void parse_sizes(const char *text)
{
    size_t mix[ROUND], count = 0;
    const char *at = text;
    for (;;) {
        char *end;
        unsigned long size = strtoul(at, &end, 10), times = 1;
        if (*end == 'x')
            times = strtoul(end + 1, &end, 10);
        if (size < sizeof(struct stamp) || size > MAX_SIZE || times < 1 || count + times > ROUND)
            refuse(text);
        largest = size > largest ? size : largest;
        while (times-- > 0)
            mix[count++] = size;
        if (*end != ',' && *end != '\0')
            refuse(text);
        if (!*end)
            break;
        at = end + 1;
    }
    single = count == 1;
    for (size_t i = 0; i < ROUND; i++)
        order[i] = mix[i % count];
    shuffle();
}

size_t largest_size(void) { return largest; }

size_t size_of(uint64_t sequence)
{
    return single ? largest : order[sequence % ROUND];
}
