/* Without libFuzzer: run files, each once; and so many inputs that are mutations of them, without looking at coverage.
 * Usage: replay [-n MUTATIONS] [-s SEED] [-c FILE] FILE...    -c: where each mutation is kept before it runs
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t state;

static uint32_t random32(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static size_t read_file(const char *name, uint8_t *into)
{
    FILE *file = fopen(name, "rb");
    if (!file) {
        perror(name);
        exit(2);
    }
    size_t bytes = fread(into, 1, MOST, file);
    fclose(file);
    return bytes;
}

/* What one input and the beginning of another one make, with some bytes changed. */
static size_t mutate(uint8_t *data, size_t bytes, const uint8_t *other, size_t other_bytes)
{
    size_t cut = bytes ? random32() % bytes : 0, more = other_bytes ? random32() % other_bytes : 0;
    more = more < MOST - cut ? more : MOST - cut;
    memcpy(data + cut, other + other_bytes - more, more);
    for (uint32_t i = random32() % 16; i && cut + more; i--)
        data[random32() % (cut + more)] = (uint8_t)random32();
    return cut + more;
}

/* An input in a buffer of its own size, so that AddressSanitizer sees its end. */
static void run(const uint8_t *data, size_t bytes)
{
    uint8_t *exact = malloc(bytes + !bytes);
    memcpy(exact, data, bytes);
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
}

static void keep(const char *name, const uint8_t *data, size_t bytes)
{
    FILE *file = fopen(name, "wb");
    if (file) {
        fwrite(data, 1, bytes, file);
        fclose(file);
    }
}

int main(int count, char **words)
{
    static uint8_t one[MOST], other[MOST];
    unsigned long mutations = 0;
    const char *crash = NULL;
    for (int option; (option = getopt(count, words, "n:s:c:")) != -1;) {
        if (option == 'n')
            mutations = strtoul(optarg, NULL, 10);
        else if (option == 's')
            state = strtoul(optarg, NULL, 10);
        else if (option == 'c')
            crash = optarg;
        else
            return 2;
    }
    int files = count - optind;
    for (int i = 0; i < files; i++)
        run(one, read_file(words[optind + i], one));
    for (unsigned long i = 0; i < mutations && files; i++) {
        size_t bytes = read_file(words[optind + (int)(random32() % (uint32_t)files)], one);
        size_t other_bytes = read_file(words[optind + (int)(random32() % (uint32_t)files)], other);
        bytes = mutate(one, bytes, other, other_bytes);
        if (crash)
            keep(crash, one, bytes); /* it is still there when the next call does not return */
        run(one, bytes);
    }
    printf("%d files, %lu mutations of them\n", files, mutations);
    return 0;
}
