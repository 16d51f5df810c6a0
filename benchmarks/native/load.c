/* The load: many WebSocket clients in one thread, on another core than the server that is measured.
 *
 *     load --port P --clients N [--path /ws] [--commands FILE] [--deaf K] [--sample S] [--server-pid PID] [--deflate 1]
 *     load --port P --handshakes SECONDS [--concurrency C] [--path /ws]
 *
 * Each client shakes hands and sends its line of FILE (client i the line i modulo their number), if there is a FILE.
 * Once all are connected and each has its `$subscribed`, it prints {"ready": ...} and executes lines of standard input:
 *     mark      prints the counts since the last mark
 *     listen    the first K clients, which have not read until now, begin to read
 *     clients   prints for each client [items received, items that its `$gap`s name]
 *
 * It counts items by MARKER, hopping from one to the next by the distance of the last two, so that it reads a few
 * bytes of an item and keeps up with 10 million a second; the latency of one frame in S is taken from its stamps.
 */
#include "common.h"

#include <math.h>

#include "inflate.h"

#define BUFFER (1 << 20)
#define OFFER "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" /* Chromium's */
#define BIN_NS 20000
#define BINS 1500000 /* 30 s */

struct client {
    int fd;
    int shaken, subscribed;
    struct inflating inflating;
    char *rest; /* the start of an incomplete frame */
    size_t rest_len;
    uint64_t items, at_mark, lost;
};

static struct {
    const char *path, *commands;
    int port, clients, deaf, sample, server_pid, concurrency, deflate;
    double handshakes;
} options = {.path = "/ws", .sample = 16, .concurrency = 64};

static struct client *clients;
static char buffer[BUFFER + 8];
static char **commands;
static int command_count;
static int poller, connected, pending, ready_count, deaf_until_told = 1;
static uint64_t items, frames, payload_bytes, reads, closed, frame_number;
static size_t stride = 1;
static uint32_t bins[BINS];
static uint64_t samples;
static int64_t window_start;

static const char *find(const char *from, const char *end, const char *what, size_t len) {
    return from < end ? memmem(from, (size_t)(end - from), what, len) : NULL;
}

static void sample_latency(const char *stamp, int64_t now) {
    int64_t at = strtoll(stamp, NULL, 10);
    if (at <= 0) return;
    int64_t bin = (now - at) / BIN_NS;
    bins[bin < 0 ? 0 : bin < BINS ? bin : BINS - 1]++;
    samples++;
}

/* How many items a frame holds. An item found exactly one stride after another leaves no room for one between. */
static uint64_t count_items(const char *from, const char *end, int sampled, int64_t now) {
    uint64_t count = 0;
    const char *at = find(from, end, MARKER, MARKER_LEN);
    while (at) {
        count++;
        if (sampled) sample_latency(at + MARKER_LEN, now);
        const char *guess = at + stride, *last = at;
        if (guess + MARKER_LEN <= end && memcmp(guess, MARKER, MARKER_LEN) == 0) {
            at = guess;
            continue;
        }
        at = find(at + MARKER_LEN, end, MARKER, MARKER_LEN);
        if (at) stride = (size_t)(at - last);
    }
    return count;
}

static void count_gaps(struct client *c, const char *from, const char *end) {
    static const char gap[] = "\"$gap\"", count[] = "\"count\":";
    while ((from = find(from, end, gap, sizeof gap - 1)) != NULL) {
        const char *start = from, *close;
        while (*start != '{') start--;
        close = memchr(from, '}', (size_t)(end - from));
        const char *number = find(start, close, count, sizeof count - 1);
        if (number) c->lost += strtoull(number + sizeof count - 1, NULL, 10);
        from = close;
    }
}

static void send_masked(struct client *c, int opcode, const char *text, size_t len) {
    char *out = malloc(len + 14);
    size_t at = 2;
    out[0] = (char)(0x80 | opcode);
    if (len < 126) {
        out[1] = (char)(0x80 | len);
    } else { /* commands stay below 64 KiB */
        out[1] = (char)(0x80 | 126), out[2] = (char)(len >> 8), out[3] = (char)len;
        at = 4;
    }
    memset(out + at, 0, 4); /* the mask 0 is legal, and leaves the text as it is */
    memcpy(out + at + 4, text, len);
    if (send(c->fd, out, at + 4 + len, MSG_NOSIGNAL) < 0 && errno != EAGAIN) closed++;
    free(out);
}

static void now_ready(struct client *c) {
    c->subscribed = 1;
    if (++ready_count == options.clients) say("{\"ready\": %d}", ready_count);
    if (deaf_until_told && c - clients < options.deaf) epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
}

static void take_frame(struct client *c, int head, const char *data, size_t len, int64_t now) {
    int opcode = head & 15;
    if (opcode == 9) {
        send_masked(c, 10, data, len);
        return;
    }
    if (opcode > 2) {
        closed += opcode == 8;
        return;
    }
    frames++;
    payload_bytes += len;
    struct plain plain = {data, len, NULL};
    if (head & 0x40) plain = inflate_message(&c->inflating, data, len);
    data = plain.data, len = plain.len;
    if (!c->subscribed && find(data, data + len, "\"$subscribed\"", 13)) now_ready(c);
    /* Scattered, so that no client and no place in a flush is preferred. */
    int sampled = (uint32_t)(++frame_number * 2654435761u) % 65536 * (uint64_t)options.sample < 65536;
    int is_known = plain.count && *plain.count != UINT64_MAX && !sampled;
    uint64_t count = is_known ? *plain.count : count_items(data, data + len, sampled, now);
    if (plain.count) *plain.count = count;
    if (c - clients < options.deaf) count_gaps(c, data, data + len);
    c->items += count;
    items += count;
}

/* Takes the whole frames in `data`; returns how many bytes they are. */
static size_t take_frames(struct client *c, const char *data, size_t len, int64_t now) {
    size_t at = 0;
    while (len - at >= 2) {
        const unsigned char *head = (const unsigned char *)data + at;
        size_t header = 2, size = head[1] & 127;
        if (size == 126) {
            if (len - at < 4) break;
            header = 4, size = (size_t)head[2] << 8 | head[3];
        } else if (size == 127) {
            if (len - at < 10) break;
            header = 10, size = 0;
            for (int i = 2; i < 10; i++) size = size << 8 | head[i];
        }
        if (len - at < header + size) break;
        take_frame(c, head[0], data + at + header, size, now);
        at += header + size;
    }
    return at;
}

static size_t take_handshake(struct client *c, char *data, size_t len) {
    data[len] = 0;
    char *end = strstr(data, "\r\n\r\n");
    if (!end) return 0;
    if (strncmp(data, "HTTP/1.1 101", 12) != 0) {
        fprintf(stderr, "handshake refused: %.200s\n", data);
        exit(3);
    }
    c->shaken = 1;
    c->inflating.is_alone = strstr(data, "server_no_context_takeover") != NULL;
    if (options.deflate && !strstr(data, "permessage-deflate")) {
        fprintf(stderr, "the server does not compress\n");
        exit(3);
    }
    pending--;
    if (command_count) {
        const char *command = commands[(c - clients) % command_count];
        send_masked(c, 1, command, strlen(command));
    } else {
        now_ready(c);
    }
    return (size_t)(end + 4 - data);
}

static void drop(struct client *c) {
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
    closed++;
}

static void read_client(struct client *c) {
    memcpy(buffer, c->rest, c->rest_len);
    ssize_t got = recv(c->fd, buffer + c->rest_len, BUFFER - c->rest_len, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) drop(c);
    if (got <= 0) return;
    reads++;
    size_t len = c->rest_len + (size_t)got, taken = 0;
    if (!c->shaken) taken = take_handshake(c, buffer, len);
    if (c->shaken) taken += take_frames(c, buffer + taken, len - taken, now_ns());
    c->rest_len = len - taken;
    if (c->rest_len) {
        c->rest = realloc(c->rest, c->rest_len);
        memcpy(c->rest, buffer + taken, c->rest_len);
    }
}

static int connect_one(int flags) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0) die("socket");
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    return fd;
}

static void send_request(int fd) {
    char request[4096];
    int len = snprintf(request, sizeof request,
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                       options.path, options.port, options.deflate ? OFFER : "");
    if (send(fd, request, (size_t)len, MSG_NOSIGNAL) != len) die("send of a handshake");
}

static void connect_more(void) {
    while (connected < options.clients && pending < options.concurrency) {
        struct client *c = &clients[connected++];
        c->fd = connect_one(0); /* blocking: on loopback it takes microseconds, and a full backlog should hold us */
        send_request(c->fd);
        set_nonblocking(c->fd);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
        pending++;
    }
}

static double percentile(double q) {
    uint64_t wanted = (uint64_t)ceil(q * (double)samples), seen = 0;
    for (size_t i = 0; i < BINS && samples; i++)
        if ((seen += bins[i]) >= wanted) return ((double)i + 0.5) * BIN_NS / 1e6;
    return 0;
}

static void mark(void) {
    int64_t at = now_ns(), server_cpu = cpu_ns(options.server_pid);
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = options.deaf; i < options.clients; i++) {
        uint64_t got = clients[i].items - clients[i].at_mark;
        if (got < least) least = got;
        if (got > most) most = got;
    }
    for (int i = 0; i < options.clients; i++) clients[i].at_mark = clients[i].items;
    say("{\"at\": %lld, \"seconds\": %.6f, \"server_cpu\": %.6f, \"own_cpu\": %.6f, \"items\": %llu, \"frames\": %llu, "
        "\"bytes\": %llu, \"reads\": %llu, \"least\": %llu, \"most\": %llu, \"p50\": %.3f, \"p99\": %.3f, "
        "\"max\": %.3f, \"samples\": %llu, \"closed\": %llu}",
        (long long)at, (double)(at - window_start) / 1e9, (double)server_cpu / 1e9,
        (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9, (unsigned long long)items, (unsigned long long)frames,
        (unsigned long long)payload_bytes, (unsigned long long)reads, (unsigned long long)least,
        (unsigned long long)most, percentile(0.5), percentile(0.99), percentile(1), (unsigned long long)samples,
        (unsigned long long)closed);
    items = frames = payload_bytes = reads = samples = 0;
    memset(bins, 0, sizeof bins);
    window_start = at;
}

static void listen_at_last(void) {
    deaf_until_told = 0;
    for (int i = 0; i < options.deaf; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
}

static void print_clients(void) {
    printf("{\"clients\": [");
    for (int i = 0; i < options.clients; i++)
        printf("%s[%llu, %llu]", i ? ", " : "", (unsigned long long)clients[i].items,
               (unsigned long long)clients[i].lost);
    say("]}");
}

static void execute(char *line) {
    if (strcmp(line, "mark") == 0) mark();
    if (strcmp(line, "listen") == 0) listen_at_last();
    if (strcmp(line, "clients") == 0) print_clients();
}

static void read_commands(void) {
    if (!options.commands) return;
    FILE *file = fopen(options.commands, "r");
    if (!file) die(options.commands);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t len;
    while ((len = getline(&line, &capacity, file)) > 0) {
        if (line[len - 1] == '\n') line[len - 1] = 0;
        commands = realloc(commands, (size_t)(command_count + 1) * sizeof *commands);
        commands[command_count++] = strdup(line);
    }
    free(line);
    fclose(file);
}

/* One handshake after the other on each of `concurrency` slots; a reset instead of a close leaves no port behind. */
static void shake_hands_for(double seconds) {
    struct epoll_event events[256], event = {.events = EPOLLIN};
    struct linger reset = {1, 0};
    uint64_t done = 0;
    int64_t start = now_ns(), cpu = cpu_ns(options.server_pid), end = start + (int64_t)(seconds * 1e9);
    for (int i = 0; i < options.concurrency; i++) {
        event.data.fd = connect_one(0);
        send_request(event.data.fd);
        epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
    }
    while (now_ns() < end) {
        int n = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            ssize_t got = recv(fd, buffer, BUFFER, 0);
            if (got < 12 || strncmp(buffer, "HTTP/1.1 101", 12) != 0) die("handshake refused");
            done++;
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            close(fd);
            event.data.fd = connect_one(0);
            send_request(event.data.fd);
            epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
        }
    }
    double took = (double)(now_ns() - start) / 1e9;
    say("{\"handshakes\": %llu, \"seconds\": %.6f, \"server_cpu\": %.6f}", (unsigned long long)done, took,
        (double)(cpu_ns(options.server_pid) - cpu) / 1e9);
}

static void parse_options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) options.port = atoi(value);
        else if (!strcmp(name, "--clients")) options.clients = atoi(value);
        else if (!strcmp(name, "--path")) options.path = value;
        else if (!strcmp(name, "--commands")) options.commands = value;
        else if (!strcmp(name, "--deaf")) options.deaf = atoi(value);
        else if (!strcmp(name, "--deflate")) options.deflate = atoi(value);
        else if (!strcmp(name, "--sample")) options.sample = atoi(value);
        else if (!strcmp(name, "--server-pid")) options.server_pid = atoi(value);
        else if (!strcmp(name, "--handshakes")) options.handshakes = atof(value);
        else if (!strcmp(name, "--concurrency")) options.concurrency = atoi(value);
        else fprintf(stderr, "load: unknown option %s\n", name), exit(2);
    }
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    raise_file_limit();
    read_commands();
    poller = epoll_create1(0);
    if (options.handshakes > 0) return shake_hands_for(options.handshakes), 0;
    clients = calloc((size_t)options.clients, sizeof *clients);
    static char input; /* its address marks events of standard input */
    struct epoll_event events[1024], event = {.events = EPOLLIN, .data.ptr = &input};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    window_start = now_ns();
    for (;;) {
        connect_more();
        int n = epoll_wait(poller, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &input) read_lines(execute);
            else read_client(events[i].data.ptr);
        }
    }
}
