/* The floor: the cost of sending these frames to these clients in C, with `send` in a loop.
 *
 *     floor CLIENTS          prints {"port": ...}, then executes lines of standard input:
 *     go RATE INTERVAL_US ITEM_BYTES MAX_BATCH MODE
 *     stop                   prints what was sent
 *
 * Every INTERVAL_US it sends to each client the items that RATE (items a second for each client) has made due, as
 * text frames of at most MAX_BATCH items. MODE: `each` is a send for each frame, `joined` one send for all frames of
 * a tick, `distinct` as `joined` but with bytes of its own for each client, `single` a frame and a send for each item.
 * It computes no Sec-WebSocket-Accept: the load generator does not check it.
 */
#include "common.h"

enum mode { EACH, JOINED, DISTINCT };

struct client {
    int fd;
    char *tail; /* what the kernel did not accept: the bytes from tail_start to tail_end */
    size_t tail_start, tail_end, tail_cap;
};

static struct client *clients;
static size_t client_count;
static enum mode mode;
static double rate;
static int64_t interval, started, next_tick, published;
static size_t item_bytes, max_batch;
static int running;
static uint64_t sends, blocked, dropped;

static char *frames;       /* the frames of this tick, one after the other */
static size_t *frame_ends; /* where each ends in `frames` */
static size_t frame_count, frames_cap, frame_ends_cap;
/* DISTINCT: for each number of items a copy of the frames for each client, so that each send reads memory of its own.
 * They are made once, without stamps: the floor of distinct frames is the cost of sending, not of making them. */
#define MAX_DISTINCT 256
static char *copies[MAX_DISTINCT];

static void *grow(void *old, size_t *capacity, size_t wanted, size_t size) {
    if (wanted <= *capacity) return old;
    *capacity = wanted * 2;
    void *fresh = realloc(old, *capacity * size);
    if (!fresh) die("realloc");
    return fresh;
}

/* One item of exactly `item_bytes`: {"seq":<12 digits>,"pad":"xx...","data":{"t":<13 digits>}} */
static size_t put_item(char *out, int64_t seq, int64_t stamp) {
    char head[64], foot[64];
    int head_len = snprintf(head, sizeof head, "{\"seq\":%012lld,\"pad\":\"", (long long)seq);
    int foot_len = snprintf(foot, sizeof foot, "\"," MARKER "%013lld}}", (long long)stamp);
    size_t pad = item_bytes - (size_t)head_len - (size_t)foot_len;
    memcpy(out, head, (size_t)head_len);
    memset(out + head_len, 'x', pad);
    memcpy(out + (size_t)head_len + pad, foot, (size_t)foot_len);
    return item_bytes;
}

static size_t put_header(char *out, size_t payload) {
    out[0] = (char)0x81;
    if (payload < 126) {
        out[1] = (char)payload;
        return 2;
    }
    if (payload < 65536) {
        out[1] = 126, out[2] = (char)(payload >> 8), out[3] = (char)payload;
        return 4;
    }
    out[1] = 127;
    for (int i = 0; i < 8; i++) out[2 + i] = (char)((uint64_t)payload >> (56 - 8 * i));
    return 10;
}

static void build_frames(int64_t first, int64_t last) {
    size_t items = (size_t)(last - first), at = 0;
    frames = grow(frames, &frames_cap, items * (item_bytes + 12) + 64, 1);
    frame_ends = grow(frame_ends, &frame_ends_cap, items + 1, sizeof *frame_ends);
    frame_count = 0;
    while (first < last) {
        size_t n = (size_t)(last - first) < max_batch ? (size_t)(last - first) : max_batch;
        at += put_header(frames + at, n * (item_bytes + 1) + 1);
        frames[at++] = '[';
        for (size_t i = 0; i < n; i++, first++) {
            int64_t stamp = started + (int64_t)((double)(first + 1) / rate * 1e9);
            at += put_item(frames + at, first + 1, mode == DISTINCT ? 0 : stamp);
            frames[at++] = i + 1 < n ? ',' : ']';
        }
        frame_ends[frame_count++] = at;
    }
}

/* A write is kept whole or, beyond MAX_TAIL, not at all, so that falling behind costs no more than keeping up. */
#define MAX_TAIL (1 << 20)

static void keep_tail(struct client *c, const char *data, size_t len) {
    blocked++;
    c->tail = grow(c->tail, &c->tail_cap, c->tail_end + len, 1);
    memcpy(c->tail + c->tail_end, data, len);
    c->tail_end += len;
}

static void send_tail(struct client *c) {
    ssize_t sent = send(c->fd, c->tail + c->tail_start, c->tail_end - c->tail_start, MSG_NOSIGNAL);
    sends++;
    if (sent > 0) c->tail_start += (size_t)sent;
    if (c->tail_start == c->tail_end) c->tail_start = c->tail_end = 0;
}

static void send_one(struct client *c, const char *data, size_t len) {
    if (c->tail_end) {
        if (c->tail_end + len > MAX_TAIL) dropped++;
        else keep_tail(c, data, len);
        return;
    }
    ssize_t sent = send(c->fd, data, len, MSG_NOSIGNAL);
    sends++;
    if (sent < 0) sent = 0; /* EAGAIN, or a peer that has disconnected */
    if ((size_t)sent < len) keep_tail(c, data + sent, len - (size_t)sent);
}

static void send_frames(struct client *c, const char *data) {
    if (c->tail_end) send_tail(c);
    size_t from = 0;
    if (mode == EACH) {
        for (size_t i = 0; i < frame_count; from = frame_ends[i++]) send_one(c, data + from, frame_ends[i] - from);
        return;
    }
    /* At most 256 KiB in a send, as the hub does it. */
    for (size_t i = 0; i < frame_count; i++) {
        if (i + 1 == frame_count || frame_ends[i + 1] - from > 256 * 1024) {
            send_one(c, data + from, frame_ends[i] - from);
            from = frame_ends[i];
        }
    }
}

static char *distinct_copies(size_t items) {
    size_t len = frame_ends[frame_count - 1];
    if (copies[items]) return copies[items];
    copies[items] = malloc(client_count * len);
    if (!copies[items]) die("malloc");
    for (size_t i = 0; i < client_count; i++) memcpy(copies[items] + i * len, frames, len);
    return copies[items];
}

/* Sends what was due at `now`, the time of a tick: one that comes late sends its frames as they were to be, and the next
 * follows at once, so that a disturbed floor does not save work by merging frames. */
static void tick(int64_t now) {
    int64_t due = (int64_t)((double)(now - started) / 1e9 * rate);
    if (mode == DISTINCT && due - published >= MAX_DISTINCT) due = published + MAX_DISTINCT - 1;
    if (due > published) {
        build_frames(published, due);
        size_t len = mode == DISTINCT ? frame_ends[frame_count - 1] : 0;
        const char *data = mode == DISTINCT ? distinct_copies((size_t)(due - published)) : frames;
        published = due;
        for (size_t i = 0; i < client_count; i++) send_frames(&clients[i], data + i * len);
    }
    next_tick += interval;
    if (next_tick < now_ns() - 250000000) next_tick = now_ns(); /* it cannot keep up: merge after all */
}

static void execute(char *line) {
    char name[16];
    long long interval_us;
    if (sscanf(line, "go %lf %lld %zu %zu %15s", &rate, &interval_us, &item_bytes, &max_batch, name) == 5) {
        if (item_bytes < 80) item_bytes = 80;
        mode = strcmp(name, "each") == 0 ? EACH : strcmp(name, "distinct") == 0 ? DISTINCT : JOINED;
        if (strcmp(name, "single") == 0) mode = EACH, max_batch = 1;
        for (size_t i = 0; i < MAX_DISTINCT; i++) free(copies[i]), copies[i] = NULL;
        interval = interval_us * 1000;
        published = 0, sends = 0, blocked = 0, dropped = 0, running = 1;
        started = now_ns();
        next_tick = started + interval;
    } else if (strcmp(line, "stop") == 0) {
        running = 0;
        say("{\"published\": %lld, \"sends\": %llu, \"blocked\": %llu, \"dropped\": %llu}",
            (long long)published, (unsigned long long)sends, (unsigned long long)blocked,
            (unsigned long long)dropped);
    }
}

static void shake_hands(int fd) {
    static const char reply[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    char request[2048];
    size_t used = 0;
    while (used < sizeof request - 1) {
        ssize_t got = recv(fd, request + used, sizeof request - 1 - used, 0);
        if (got <= 0) die("recv of a handshake");
        used += (size_t)got;
        request[used] = 0;
        if (strstr(request, "\r\n\r\n")) break;
    }
    if (send(fd, reply, sizeof reply - 1, MSG_NOSIGNAL) < 0) die("send of a handshake");
    set_nonblocking(fd);
}

/* The socket options of the native transport: the same bytes through the same kind of socket. */
static void prepare(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16 * 1024);
    set_option(fd, SOL_SOCKET, SO_SNDBUF, 128 * 1024);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: floor CLIENTS\n"), 2;
    client_count = (size_t)atol(argv[1]);
    clients = calloc(client_count, sizeof *clients);
    raise_file_limit();
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    say("{\"port\": %d}", ntohs(address.sin_port));
    for (size_t i = 0; i < client_count; i++) {
        clients[i].fd = accept(listener, NULL, NULL);
        if (clients[i].fd < 0) die("accept");
        prepare(clients[i].fd);
        shake_hands(clients[i].fd);
    }
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        int64_t wait = running ? next_tick - now_ns() : 1000000000;
        if (wait < 0) wait = 0;
        struct timespec timeout = {wait / 1000000000, wait % 1000000000};
        if (ppoll(&input, 1, &timeout, NULL) == 1) read_lines(execute);
        if (running && now_ns() >= next_tick) tick(next_tick);
    }
}
