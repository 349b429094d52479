/*
 * A small order gateway in C: floods a venue with orders, each of which passes haltline's gate.
 *
 * gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT, for a session that asks or one that observes. VENUE is
 * ADDRESS:PORT. Runs until it is ended or the venue closes the connection, and prints a line when its gate opens, when it closes,
 * and when a thousand orders in a row were denied.
 *
 *     cc -std=c11 -O2 -I src/gate tests/gateways/gateway.c -o gateway
 */
#include "haltline.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

/* What waits for longer is given up; nobody but the gate decides how late an order may be. */
#define PATIENCE_NS UINT64_C(10000000000)
#define TIMEOUT_MS 1000u
/* The first attach: haltline may read this executable before it answers. */
#define ATTACH_TIMEOUT_MS 60000u
#define BUILD "example gateway (C)"
/* Orders that the venue may owe an answer. */
#define OUTSTANDING 256u
/* Places of the event lane that one order needs at most: itself, its ack, its end. */
#define EVENTS_PER_ORDER 3u

static void die(const char *what, const char *why) {
    (void)fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static int connect_to(const char *venue) {
    char host[64] = "";
    unsigned port = 0;
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    if (sscanf(venue, "%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
        die(venue, "must be ADDRESS:PORT");
    address.sin_port = htons((uint16_t)port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        die(venue, strerror(errno));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* Sends all of `bytes`. */
static bool send_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        const ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return false;
        if (sent > 0) {
            bytes += sent;
            len -= (size_t)sent;
        }
    }
    return true;
}

/* Reports `event`, which must not be lost: waits while the lane is full. */
static void report(hl_asker *asker, const hl_event *event) {
    hl_denied denied;
    hl_reason reason;
    while ((reason = hl_report(asker, event, NULL, &denied)) == HL_FULL)
        (void)sched_yield();
    if (reason != HL_OK) {
        char line[256];
        die("report", hl_denied_text(&denied, line, sizeof line));
    }
}

/* Reports everything that the venue has said by now about orders like `order`. Returns how many of them have ended. */
static unsigned report_answers(int venue, hl_asker *asker, const hl_event *order) {
    static char begun[65536];
    static size_t len = 0;
    const ssize_t got = recv(venue, begun + len, sizeof begun - len, MSG_DONTWAIT);
    if (got == 0)
        die("venue", "it closed the connection");
    if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        die("venue", strerror(errno));
    if (got > 0)
        len += (size_t)got;
    unsigned ended = 0;
    char *line = begun, *end;
    while ((end = (char *)memchr(line, '\n', len - (size_t)(line - begun))) != NULL) {
        uint64_t exec = 0;
        hl_event event = hl_event_of(HL_ACK);
        event.strategy = order->strategy;
        event.account = order->account;
        event.instrument = order->instrument;
        *end = 0;
        if (sscanf(line, "fill %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64, &event.id, &exec, &event.qty,
                   &event.px) == 4) {
            event.kind = HL_FILL;
            event.ref_id = exec;
            event.side = event.id % 2 == 0 ? HL_BUY : HL_SELL;
        } else if (sscanf(line, "canceled %" SCNu64, &event.id) == 1) {
            event.kind = HL_CANCELED;
        } else if (sscanf(line, "expired %" SCNu64, &event.id) == 1) {
            event.kind = HL_EXPIRED;
        } else if (sscanf(line, "ack %" SCNu64, &event.id) != 1) {
            die("the venue said", line);
        }
        report(asker, &event);
        ended += event.kind != HL_ACK;
        line = end + 1;
    }
    len -= (size_t)(line - begun);
    memmove(begun, line, len);
    return ended;
}

/* Cancels what haltline wants canceled, with ids from `id` on. */
static void obey(int venue, hl_asker *asker, uint64_t *id) {
    hl_instruction told;
    hl_denied denied;
    hl_reason reason;
    while ((reason = hl_next_instruction(asker, &told, &denied)) == HL_OK) {
        char line[64];
        /* HL_DO_MASS_CANCEL is told only to gateways that say that they take it. */
        if (told.kind == HL_DO_DISCONNECT)
            die("haltline", "wants the connection to the venue cut");
        if (told.kind != HL_DO_CANCEL)
            continue;
        const int len = snprintf(line, sizeof line, "cancel %" PRIu64 "\n", told.id);
        if (!send_all(venue, line, (size_t)len))
            die("venue", strerror(errno));
        hl_event cancel = hl_event_of(HL_CANCEL);
        cancel.id = ++*id;
        cancel.ref_id = told.id;
        report(asker, &cancel);
    }
    if (reason != HL_NOTHING) {
        char line[256];
        die("haltline", hl_denied_text(&denied, line, sizeof line));
    }
}

int main(int argc, char **argv) {
    hl_gate gate;
    hl_asker asker;
    hl_error error;
    hl_denied denied;
    char token[128] = "";
    if (argc != 7)
        die("usage", "gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT");
    FILE *const file = fopen(argv[3], "r");
    if (file == NULL || fgets(token, sizeof token, file) == NULL)
        die(argv[3], "has no token");
    (void)fclose(file);
    token[strcspn(token, "\r\n")] = 0;
    const int venue = connect_to(argv[4]);

    hl_event order = hl_event_of(HL_NEW);
    if (hl_attach(&gate, argv[1], argv[2], token, BUILD, ATTACH_TIMEOUT_MS, &error) != HL_DONE ||
        hl_strategy(&gate, argv[5], &order.strategy, &error) != HL_DONE ||
        hl_instrument(&gate, argv[6], &order.instrument, &error) != HL_DONE ||
        hl_asker_init(&gate, &asker, &error) != HL_DONE)
        die("haltline", error.text);
    order.account = hl_account_of(&gate, order.strategy);
    order.qty = 1;
    order.px = 1000;

    /* Ids are never used twice, not even by the next run. */
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    order.id = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
    int open = -1;
    uint64_t denials = 0;
    unsigned outstanding = 0;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (;;) {
        outstanding -= report_answers(venue, &asker, &order);
        obey(venue, &asker, &order.id);
        if (outstanding >= OUTSTANDING) {
            (void)sched_yield();
            continue;
        }
        order.id++;
        order.side = order.id % 2 == 0 ? HL_BUY : HL_SELL;
        /* Room first: what is sent has to be reported. */
        uint64_t room = 0;
        hl_reason reason = hl_room(&asker, &room, &denied);
        if (reason == HL_OK && room < EVENTS_PER_ORDER)
            reason = denied.reason = HL_FULL;
        if (reason == HL_OK)
            reason = gate.kind == HL_KIND_ASK ? hl_ask(&asker, &order, PATIENCE_NS, &denied)
                                              : hl_admit(&asker.checker, order.strategy, order.instrument, &denied);
        if (reason == HL_OK) {
            /* The pass is held until send() has returned, and no longer. A venue that does not read keeps it, and a kill
             * unconfirmed: rightly so, for part of the order may be on its way. */
            char line[160];
            const int len = snprintf(line, sizeof line, "new %" PRIu64 " %s %s %" PRId64 " %" PRId64 " %" PRIu64 "\n",
                                     order.id, argv[6], order.side == HL_BUY ? "buy" : "sell", order.qty, order.px,
                                     hl_clock());
            const bool sent = send_all(venue, line, (size_t)len);
            hl_asker_exit(&asker);
            if (!sent)
                die("venue", strerror(errno));
            outstanding++;
            if (gate.kind == HL_KIND_OBSERVE)
                report(&asker, &order);
            if (open != 1)
                (void)printf("open\n");
            open = 1;
            denials = 0;
        } else {
            char line[256];
            if (open != 0)
                (void)printf("closed: %s\n", hl_denied_text(&denied, line, sizeof line));
            open = 0;
            if (++denials == 1000)
                (void)printf("denied 1000\n");
            if (reason == HL_DAMAGED || reason == HL_BAD_VERDICT)
                die("haltline", hl_denied_text(&denied, line, sizeof line));
            /* Haltline may have been started anew. Until it has, the gate stays closed. */
            if (reason == HL_LAPSED && !hl_is_connected(&gate))
                (void)hl_reconnect(&gate, argv[1], argv[2], token, BUILD, TIMEOUT_MS, &error);
            (void)sched_yield();
        }
    }
}
