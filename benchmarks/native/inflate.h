/* Inflates the compressed messages of a server (RFC 7692).
 *
 * Where each message stands for itself, all clients get the same bytes: what was inflated once is remembered, or the
 * load would need more CPU than the server. Where messages refer to those before them each client inflates for itself.
 */
#ifndef BENCH_INFLATE_H
#define BENCH_INFLATE_H

#include "common.h"

struct inflating {
    int is_alone; /* whether each message stands for itself */
    void *stream;
};

struct plain {
    const char *data;
    size_t len;
    uint64_t *count; /* where to remember the number of items; starts as UINT64_MAX */
};

#ifdef WITH_Z
#include <zlib.h>

#define REMEMBERED 64
#define LONGEST (1 << 20)

static struct {
    char *packed, *plain;
    size_t packed_len, plain_len;
    uint64_t count;
} remembered[REMEMBERED];
static int newest;

/* Inflates into a buffer that lives until the next call; returns how many bytes there are. */
static size_t inflate_with(z_stream *stream, const char *data, size_t len, char **out) {
    static char buffer[LONGEST];
    static const unsigned char tail[] = {0, 0, 0xff, 0xff};
    stream->next_out = (unsigned char *)buffer, stream->avail_out = LONGEST;
    stream->next_in = (unsigned char *)data, stream->avail_in = (unsigned)len;
    int first = inflate(stream, Z_SYNC_FLUSH);
    stream->next_in = (unsigned char *)tail, stream->avail_in = sizeof tail;
    int second = inflate(stream, Z_SYNC_FLUSH);
    if ((first != Z_OK && first != Z_BUF_ERROR) || (second != Z_OK && second != Z_BUF_ERROR)) die("inflate");
    *out = buffer;
    return LONGEST - stream->avail_out;
}

static z_stream *open_stream(void) {
    z_stream *stream = calloc(1, sizeof *stream);
    if (inflateInit2(stream, -15) != Z_OK) die("inflateInit2");
    return stream;
}

static struct plain inflate_message(struct inflating *in, const char *data, size_t len) {
    static z_stream *shared;
    char *out;
    if (!in->is_alone) {
        if (!in->stream) in->stream = open_stream();
        size_t plain_len = inflate_with(in->stream, data, len, &out);
        return (struct plain){out, plain_len, NULL};
    }
    for (int i = 0; i < REMEMBERED; i++) {
        int at = (newest + REMEMBERED - i) % REMEMBERED;
        if (remembered[at].packed_len == len && memcmp(remembered[at].packed, data, len) == 0)
            return (struct plain){remembered[at].plain, remembered[at].plain_len, &remembered[at].count};
    }
    if (!shared) shared = open_stream();
    inflateReset(shared);
    size_t plain_len = inflate_with(shared, data, len, &out);
    newest = (newest + 1) % REMEMBERED;
    remembered[newest].packed = memcpy(realloc(remembered[newest].packed, len), data, len);
    remembered[newest].plain = memcpy(realloc(remembered[newest].plain, plain_len), out, plain_len);
    remembered[newest].packed_len = len, remembered[newest].plain_len = plain_len;
    remembered[newest].count = UINT64_MAX;
    return (struct plain){remembered[newest].plain, plain_len, &remembered[newest].count};
}
#else
static struct plain inflate_message(struct inflating *in, const char *data, size_t len) {
    (void)in, (void)data, (void)len;
    fprintf(stderr, "built without zlib\n");
    exit(3);
}
#endif

#endif
