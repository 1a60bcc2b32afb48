/* The replay window.  Twin: core/pump/replay.py, which keeps one big number; here the bits are a ring (RFC 6479). */
#include "hot.h"

#define WINDOW 8192u

static bool may_accept(const hot_window *w, uint64_t counter)
{
    if (counter >= w->next)
        return true;
    if (counter + WINDOW < w->next)
        return false;
    return !(w->seen[counter % WINDOW / 64] >> (counter % 64) & 1);
}

/* Forget the bits of the counters from ``first`` on, ``count`` of them: they were those of 8,192 counters earlier. */
static void clear(hot_window *w, uint64_t first, uint64_t count)
{
    if (count >= WINDOW) {
        memset(w->seen, 0, sizeof w->seen);
        return;
    }
    for (uint64_t c = first; c < first + count;) {
        if (c % 64 == 0 && c + 64 <= first + count) {
            w->seen[c % WINDOW / 64] = 0;
            c += 64;
        } else {
            w->seen[c % WINDOW / 64] &= ~(1ull << c % 64);
            c++;
        }
    }
}

int hot_accept(hot_window *w, uint64_t counter)
{
    if (!may_accept(w, counter))
        return 0;
    if (counter >= w->next) {
        clear(w, w->next, counter + 1 - w->next);
        w->next = counter + 1;
    }
    w->seen[counter % WINDOW / 64] |= 1ull << counter % 64;
    return 1;
}
