/* Patterns of outputs: "*" and "?" match within a name, "[a-z]" and "[!a-z]" one of some characters, "**" as a whole
 * component any number of directories. A backslash takes the next character as it is.
 *
 * Both matchers keep one place to go back to, the last star: what a star before it took cannot be made better, so the
 * time is the product of the lengths, whatever names a job invents. */
#include "stages.h"

/* Whether `c` is in the set that begins behind "["; `*end` is set behind its "]", or to NULL when there is none. */
static int in_set(const char *set, const char *limit, char c, const char **end)
{
    const unsigned char wanted = (unsigned char)c;
    const int negated = set < limit && *set == '!';
    int found = 0;
    const char *at = set + negated;
    for (const char *first = at; at < limit && (*at != ']' || at == first); at++) {
        const unsigned char low = (unsigned char)*at;
        unsigned char high = low;
        if (at + 2 < limit && at[1] == '-' && at[2] != ']') {
            high = (unsigned char)at[2];
            at += 2;
        }
        found |= low <= wanted && wanted <= high;
    }
    *end = at < limit ? at + 1 : NULL;
    return found != negated;
}

/* One character of a name against what stands at `*at`, which moves behind it on a match. */
static int one_matches(const char **at, const char *limit, char c)
{
    const char *end;
    if (*at >= limit)
        return 0;
    if (**at == '?') {
        (*at)++;
        return 1;
    }
    if (**at == '[') {
        const int found = in_set(*at + 1, limit, c, &end);
        if (end != NULL) {
            *at = found ? end : *at;
            return found;
        }
    }
    const char *literal = **at == '\\' && *at + 1 < limit ? *at + 1 : *at;
    if (*literal != c)
        return 0;
    *at = literal + 1;
    return 1;
}

static int name_matches(const char *pattern, size_t pattern_size, const char *name, size_t name_size)
{
    const char *limit = pattern + pattern_size, *star = NULL, *retry = NULL;
    const char *at = pattern, *c = name;
    while (c < name + name_size) {
        if (at < limit && *at == '*') {
            star = ++at;
            retry = c;
        } else if (one_matches(&at, limit, *c)) {
            c++;
        } else if (star != NULL) {
            at = star;
            c = ++retry;
        } else {
            return 0;
        }
    }
    while (at < limit && *at == '*')
        at++;
    return at == limit;
}

static size_t component(const char *path)
{
    size_t n = 0;
    while (path[n] != '/' && path[n] != 0)
        n++;
    return n;
}

static const char *next(const char *path)
{
    path += component(path);
    return *path == '/' ? path + 1 : path;
}

int glob_matches(const char *pattern, const char *path)
{
    const char *star = NULL, *retry = NULL;
    while (*path != 0) {
        const size_t size = component(pattern);
        if (size == 2 && pattern[0] == '*' && pattern[1] == '*') {
            star = pattern = next(pattern);
            retry = path;
        } else if (size > 0 && name_matches(pattern, size, path, component(path))) {
            pattern = next(pattern);
            path = next(path);
        } else if (star != NULL) {
            pattern = star;
            path = retry = next(retry);
        } else {
            return 0;
        }
    }
    while (component(pattern) == 2 && pattern[0] == '*' && pattern[1] == '*')
        pattern = next(pattern);
    return *pattern == 0;
}
