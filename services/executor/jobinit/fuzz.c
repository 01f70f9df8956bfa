/* Fuzzes the spec parser: whatever it accepts must lie within the bytes it was given.
 *
 * LLVMFuzzerTestOneInput serves clang's libFuzzer. With gcc the main below mutates seeds itself, under the sanitizers,
 * and is called alike:
 *     fuzz-spec [-runs=N] [-max_total_time=SECONDS] [-seed=N] SEED-DIRECTORY
 * The same seed number gives the same inputs. Exit status 0: nothing found; 2: bad usage; anything else: found, the input
 * is in crash.spec. */
#include "stages.h"

#include <dirent.h>
#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef LIBFUZZER
static void keep_input(void) {} /* libFuzzer does it */
#else
static void keep_input(void);
#endif

static _Noreturn void found(void)
{
    keep_input();
    abort();
}

_Noreturn void fail(uint32_t stage, long error, const char *detail)
{
    fprintf(stderr, "stage %u errno %ld: %s\n", stage, error, detail);
    found(); /* the parser itself reports by its result */
}

static void inside(const char *text, const uint8_t *data, size_t size)
{
    if ((const uint8_t *)text < data || (const uint8_t *)text + strlen(text) >= data + size)
        found();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct spec spec;
    if (spec_parse(data, size, &spec) != NULL)
        return 0;
    inside(spec.hostname, data, size);
    inside(spec.workdir, data, size);
    for (uint32_t i = 0; i < spec.header.argc; i++)
        inside(spec.argv[i], data, size);
    for (uint32_t i = 0; i < spec.header.envc; i++)
        inside(spec.envp[i], data, size);
    if (spec.argv[spec.header.argc] != NULL || spec.envp[spec.header.envc] != NULL)
        found();
    const unsigned char *at = spec.uploads;
    for (uint32_t i = 0; i < spec.header.uploads; i++) {
        struct upload upload;
        at = spec_upload(at, &upload);
        inside(upload.path, data, size);
        if (upload.path[0] == '/' || strcmp(upload.path, "..") == 0 || strncmp(upload.path, "../", 3) == 0 ||
            strstr(upload.path, "/../") != NULL)
            found();
    }
    for (uint32_t i = 0; i < spec.header.outputs; i++) {
        inside(spec.outputs[i], data, size);
        at += sizeof(uint32_t) + strlen(spec.outputs[i]) + 1;
    }
    if (at != data + size)
        found();
    return 0;
}

#ifndef LIBFUZZER

enum { MAX_SEEDS = 256, MAX_BYTES = 1 << 20, GROWTH = 64 };

static uint8_t *seeds[MAX_SEEDS];
static size_t sizes[MAX_SEEDS];
static uint64_t state = 1;

static uint64_t pick(uint64_t below) /* xorshift64* */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * UINT64_C(2685821657736338717) >> 16) % below;
}

static size_t mutate(uint8_t *spec, size_t size)
{
    static const uint32_t telling[] = {
        0, 1, 2, 3, 127, 255, 256, 4095, 4096, 65535, 65536, 0x7fffffff, 0x80000000, UINT32_MAX - 1, UINT32_MAX,
    };
    const size_t at = size > 0 ? pick(size) : 0;
    switch (pick(7)) {
    case 0:
        return at; /* cut */
    case 1: { /* insert */
        size_t n = 1 + pick(GROWTH);
        memmove(spec + at + n, spec + at, size - at);
        for (size_t i = 0; i < n; i++)
            spec[at + i] = (uint8_t)pick(256);
        return size + n;
    }
    case 2: { /* remove */
        size_t n = size > at ? 1 + pick(size - at) : 0;
        memmove(spec + at, spec + at + n, size - at - n);
        return size - n;
    }
    case 3:
    case 4: /* a number that tells */
        if (size >= at + 4)
            memcpy(spec + at, &telling[pick(sizeof telling / sizeof telling[0])], 4);
        return size;
    case 5: /* put the size right, so that the rest is looked at */
        if (size >= 12)
            memcpy(spec + 8, &(uint32_t){(uint32_t)size}, 4);
        return size;
    default:
        if (size > at)
            spec[at] = (uint8_t)(spec[at] ^ 1U << pick(8));
        return size;
    }
}

static uint8_t bytes[MAX_BYTES + 64 * GROWTH];
static size_t bytes_size;

static void keep_input(void)
{
    FILE *file = fopen("crash.spec", "wb");
    if (file == NULL)
        return;
    fwrite(bytes, 1, bytes_size, file);
    fclose(file);
}

static void try_one(void)
{
    uint8_t *exact = malloc(bytes_size > 0 ? bytes_size : 1); /* so that the sanitizer sees one byte too far */
    if (exact == NULL)
        exit(1);
    memcpy(exact, bytes, bytes_size);
    LLVMFuzzerTestOneInput(exact, bytes_size);
    free(exact);
}

static unsigned read_seeds(const char *directory)
{
    unsigned count = 0;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL && count < MAX_SEEDS;) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        FILE *file = entry->d_name[0] != '.' ? fopen(path, "rb") : NULL;
        if (file == NULL)
            continue;
        seeds[count] = malloc(MAX_BYTES);
        sizes[count] = seeds[count] != NULL ? fread(seeds[count], 1, MAX_BYTES, file) : 0;
        count += sizes[count] > 0;
        fclose(file);
    }
    if (entries != NULL)
        closedir(entries);
    return count;
}

int main(int argc, char **argv)
{
    unsigned long runs = 1000000, seconds = 10, done = 0;
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-runs=", 6) == 0)
            runs = strtoul(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-max_total_time=", 16) == 0)
            seconds = strtoul(argv[i] + 16, NULL, 10);
        else if (strncmp(argv[i], "-seed=", 6) == 0)
            state = strtoul(argv[i] + 6, NULL, 10) * 2 + 1;
        else
            count = read_seeds(argv[i]);
    }
    if (count == 0) {
        fprintf(stderr, "usage: fuzz-spec [-runs=N] [-max_total_time=SECONDS] [-seed=N] SEED-DIRECTORY\n");
        return 2;
    }
    __sanitizer_set_death_callback(keep_input);
    for (const time_t end = time(NULL) + (time_t)seconds; done < runs; done++) {
        if ((done & 1023) == 0 && time(NULL) >= end)
            break;
        const unsigned n = (unsigned)pick(count);
        bytes_size = sizes[n];
        memcpy(bytes, seeds[n], bytes_size);
        for (uint64_t left = pick(12); left > 0; left--)
            bytes_size = mutate(bytes, bytes_size);
        try_one();
    }
    printf("%lu inputs from %u seeds, nothing found\n", done, count);
    return 0;
}

#endif
