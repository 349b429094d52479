/*
 * haltline.h: the gate of an order gateway, for C11 and C++17. One header, nothing to link.
 *
 * haltline watches the order flow of a trading firm and halts it. A gateway on the same host attaches to it and looks at
 * the gate before each order that it sends: some nanoseconds, no system call, no lock, no allocation. This header does
 * over the same shared memory what the Rust module haltline::gate does.
 *
 *     hl_gate gate; hl_checker checker; hl_error error; hl_denied denied;
 *     if (hl_attach(&gate, "/run/haltline/gate", "gw-1", token, "my-gateway 1.0", 1000, &error) != HL_DONE) die(error.text);
 *     hl_strategy(&gate, "alpha", &strategy, &error);       // ids are looked up once
 *     hl_checker_init(&gate, &checker, &error);             // in each order thread
 *
 *     if (hl_admit(&checker, strategy, instrument, &denied) == HL_OK) {
 *         send(venue, order, length, MSG_NOSIGNAL);
 *         hl_exit(&checker);                                // right after send() has returned
 *     }
 *
 * TWO WAYS. A session that OBSERVES checks the page (hl_admit), sends, and reports what it sent (hl_report). A session that
 * ASKS puts the order to haltline first (hl_ask, or hl_submit, hl_poll and hl_pass) and gets a verdict. Which one a session
 * is, haltline's configuration says; hl_gate.kind shows it.
 *
 * WHAT A PASS PROVES. HL_OK of hl_admit, hl_ask and hl_pass is a pass, held until hl_exit. haltline confirms a kill to the
 * operator when no pass is held that was given before it. So: send while the pass is held, and exit it RIGHT AFTER send() has
 * returned. Exit too early (or send without a pass), and orders leave after the kill was confirmed. Exit late, and the kill
 * stays unconfirmed for as long. Whatever the return of send() was, exit; never keep a pass for the next order.
 * What send() leaves in a buffer of the gateway's own has not been sent: a library that buffers has to be flushed inside.
 *
 * WHAT CLOSES A GATE. A mode of the firm, or of the order's account, strategy, instrument or session; a lease that has lapsed
 * (haltline is frozen, starved, behind, or dead); a page out of service; a full or damaged lane; no verdict in time. All of
 * them deny. Cancels need no pass: they may leave in every mode, and are reported.
 *
 * THREADS. hl_gate may be used by all threads, as each function says, and must stay where it is in memory. An hl_checker
 * and the hl_asker belong to one thread at a time. After fork() the child has none of this memory (a use of it ends the
 * child with SIGSEGV, which is the safe side): attach anew in the child, as another session.
 *
 * BUILD. Linux, x86-64 or aarch64 (little-endian), gcc or clang. With -std=c11 (not gnu11) include this file before any
 * system header, or define _DEFAULT_SOURCE for the whole file.
 *
 * Names that begin with hl_i_ or HL_I_ are internal. Layouts: src/kill/page.rs, src/gate/region.rs, src/ring/lane.rs,
 * src/ring/slots.rs, src/model/record.rs, src/gate/hello.rs; tests/it/c_gate.rs holds both sides against each other.
 *
 * Licence: MIT OR Apache-2.0.
 */
#ifndef HALTLINE_H
#define HALTLINE_H

#if !defined(__cplusplus) && !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__)) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "haltline.h: Linux on x86-64 or little-endian aarch64 only"
#endif
#if !defined(MADV_DONTFORK) || !defined(MAP_POPULATE)
#error "haltline.h: include it before any system header, or define _DEFAULT_SOURCE for the whole file"
#endif

#ifdef __cplusplus
#define HL_I_ASSERT(condition, text) static_assert(condition, text)
#else
#define HL_I_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define HL_I_COLD static __attribute__((cold, noinline, unused))
#define HL_I_FN static inline __attribute__((unused))
#define HL_I_HOT static inline __attribute__((always_inline, unused))
#define HL_I_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define HL_I_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* ------------------------------------------------------------------------------------------------------------------ */
/* What is shared with haltline. Words are 64 bits. */

/* The halt page: haltline's file, mapped to read. */
#define HL_I_PAGE_MAGIC UINT64_C(0x45474150544C4148)
#define HL_I_PAGE_VERSION UINT64_C(1)
#define HL_I_PAGE_AT_VERSION 1
#define HL_I_PAGE_AT_ACCOUNTS 3
#define HL_I_PAGE_AT_INSTRUMENTS 4
#define HL_I_PAGE_AT_STATE 5
#define HL_I_PAGE_AT_RAISED 16
#define HL_I_PAGE_AT_EPOCH 17
#define HL_I_PAGE_AT_CHANGES 18
#define HL_I_PAGE_AT_LEASE 32
#define HL_I_PAGE_AT_WORDS 64
#define HL_I_PAGE_IN_SERVICE UINT64_C(1)
#define HL_I_EPOCH_BITS 62

/* The region: slots and lanes of one session, in a sealed memory file. */
#define HL_I_REGION_MAGIC UINT64_C(0x45544147544C4148)
#define HL_I_REGION_VERSION UINT64_C(1)
#define HL_I_REGION_AT_SESSION 2
#define HL_I_REGION_AT_BASE 3
#define HL_I_REGION_AT_PLACES 4
#define HL_I_REGION_AT_SLOTS 5
#define HL_I_REGION_AT_EVENT_CURSOR 16
#define HL_I_REGION_AT_VERDICT_CURSOR 32
#define HL_I_REGION_AT_ANSWERED 33
#define HL_I_REGION_AT_BODY 64
#define HL_I_MAX_PLACES (UINT32_C(1) << 20)
#define HL_I_MAX_SLOTS UINT32_C(1024)

/* Slots. */
#define HL_I_SLOT_WORDS 16
#define HL_I_SLOT_STATE 0
#define HL_I_SLOT_OWNER 1

/* The low byte of an instruction's first word; verdicts have a kind of event there. */
#define HL_I_IS_INSTRUCTION(word) ((uint8_t)(word) >= HL_DO_CANCEL && (uint8_t)(word) <= HL_DO_DISCONNECT)
/* The id of a heartbeat by which a gateway says that it takes HL_DO_MASS_CANCEL. */
#define HL_I_TAKES_MASS_CANCEL UINT64_C(2)

/* In a verdict's checks: rule 17, which is looked at for every order that does not reduce, and for no other. */
#define HL_I_RISK_CHECK (UINT64_C(1) << 17)

/* Lanes. */
#define HL_I_RECORD_WORDS 8
#define HL_I_STAMP 2
#define HL_I_CHECK_0 UINT64_C(0x0000FFFF00000000)
#define HL_I_CHECK_1 UINT64_C(0x00000000FFFF0000)

/* The bell that wakes the engine. */
#define HL_I_BELL_WORDS 512
#define HL_I_BELL_COUNT 0
#define HL_I_BELL_ASLEEP 16

/* Messages over the local socket. */
#define HL_I_HELLO_MAGIC UINT32_C(0x41474C48)
#define HL_I_HELLO_VERSION 1
#define HL_I_HELLO_LEN 256
#define HL_I_OP_ATTACH 1
#define HL_I_OP_LOOK_UP 2
#define HL_I_OP_CLAIM 3
#define HL_I_OP_TEXT 4
#define HL_I_CLAIM_CONFIG_HASH 1
#define HL_I_CLAIM_HOST 2
#define HL_I_CLAIM_FLAG 3

/* Longest name or build, and longest token, in bytes. */
#define HL_NAME_MAX 63
#define HL_TOKEN_MAX 71
/* Bytes of a text for the guard that are passed on; see hl_text. */
#define HL_TEXT_MAX 239

/* ------------------------------------------------------------------------------------------------------------------ */
/* Words of the trade. The numbers are the wire's and never change meaning. */

/* What an event says; see hl_event for the fields that each kind has. */
enum {
    HL_NEW = 1,              /* a new order: asked, or (observing) sent already */
    HL_REPLACE = 2,          /* a request to replace order ref_id by id with a new quantity and price */
    HL_CANCEL = 3,           /* a request (id) to cancel order ref_id: never denied */
    HL_ACK = 4,              /* the venue accepted order id */
    HL_REPLACED = 5,         /* the venue replaced ref_id by id, now with total quantity qty at px */
    HL_CANCELED = 6,         /* order id is canceled, asked for or not */
    HL_EXPIRED = 7,          /* order id expired */
    HL_REJECTED = 8,         /* the venue rejected new order id */
    HL_CANCEL_REJECTED = 9,  /* the venue rejected the cancel or replace id of order ref_id, which stays as it was */
    HL_FILL = 10,            /* execution ref_id of qty at px on order id */
    HL_BUST = 11,            /* execution id is void; ref_id is the bust's own exec id */
    HL_CORRECT = 12,         /* execution id was really qty at px; ref_id is the correction's own exec id */
    HL_MARK = 13,            /* the reference price of instrument is px (sessions of kind reference only) */
    HL_FX = 14,              /* one unit of currency `instrument` is worth px * 10^-10 of the base currency (as above) */
    HL_HEARTBEAT = 15,       /* the session is alive */
    HL_WITHDRAWN = 16,       /* order id was admitted and is not sent: see hl_withdraw */
    /* Of parent orders: from sessions of kind orders only, which come over the WebSocket. */
    HL_PARENT_NEW = 17,      /* parent order id may have children */
    HL_PARENT_REPLACE = 18,  /* parent order id has another quantity, price or deadline */
    HL_PARENT_DONE = 19      /* parent order id may have no more children */
};
enum { HL_BUY = 1, HL_SELL = 2 };
enum { HL_LIMIT = 1, HL_MARKET = 2, HL_STOP = 3, HL_STOP_LIMIT = 4 };
enum { HL_FIRM = 0, HL_ACCOUNT = 1, HL_STRATEGY = 2, HL_PAIR = 3, HL_INSTRUMENT = 4, HL_SESSION = 5 };
enum { HL_NORMAL = 0, HL_REDUCE_ONLY = 1, HL_HALTED = 2 };

/* What an instruction asks for: to cancel one order, or every order of the scope; to cut the connection to the venue, so that it
 * cancels what is left, because cancels are not answered. */
enum { HL_DO_CANCEL = 32, HL_DO_MASS_CANCEL = 33, HL_DO_DISCONNECT = 34 };
/* Where a text for the guard is from: a line of the gateway's log, or a venue's reject. */
enum { HL_TEXT_LOG = 1, HL_TEXT_REJECT = 2 };
/* What a session may do: hl_gate.kind. */
enum { HL_KIND_ASK = 1, HL_KIND_OBSERVE = 2 };
/* How the gate's half of the barrier is made: hl_gate.fencing. */
enum { HL_FENCE = 1, HL_MEMBARRIER = 2 };

/* How a call that prepares something ended. */
typedef enum hl_status {
    HL_DONE = 0,
    HL_E_ARGUMENT,  /* an argument is out of range; the text names it */
    HL_E_IO,        /* the socket cannot be reached, has ended, or gave no answer in time */
    HL_E_REFUSED,   /* haltline said no; hl_error.refused and the text say why */
    HL_E_PROTOCOL,  /* header and haltline do not fit together */
    HL_E_CHANGED,   /* only hl_reconnect: haltline has another configuration now. Detach and attach anew */
    HL_E_BUSY,      /* another thread is in such a call now; there is an asker already; or (hl_detach) ends are in use */
    HL_E_SLOTS,     /* all slots are taken: too many threads */
    HL_E_DAMAGED,   /* the lanes hold what cannot be: attach anew */
    HL_E_MEMORY     /* no memory */
} hl_status;

/* hl_error.refused. */
enum {
    HL_REFUSED_MALFORMED = 1,   /* the message is none */
    HL_REFUSED_NOT_ALLOWED = 2, /* no such session, or no right to be it */
    HL_REFUSED_IN_USE = 3,      /* the session is attached, and its gateway alive */
    HL_REFUSED_UNKNOWN = 4,     /* there is no such name */
    HL_REFUSED_BAD_REGION = 5,  /* the region that was offered cannot be gone on with */
    HL_REFUSED_UNAVAILABLE = 6  /* haltline cannot now */
};

/* Why a call did not end with HL_DONE. */
typedef struct hl_error {
    hl_status status;
    uint16_t refused; /* HL_E_REFUSED: one of HL_REFUSED_..., or one that this header does not know */
    char text[256];   /* for people: UTF-8, ends with a zero */
} hl_error;

/* Whether an order may leave, and why not. */
typedef enum hl_reason {
    HL_OK = 0,       /* it may: a pass is held (hl_admit, hl_ask, hl_pass), or the event was taken */
    HL_CLOSED,       /* a scope is halted or reduce-only: scope, mode, epoch */
    HL_LAPSED,       /* haltline has not renewed the lease: lapsed_ns */
    HL_RETIRED,      /* the page is out of service: detach and attach anew */
    HL_UNKNOWN,      /* strategy or instrument is not on the page */
    HL_CHANGED,      /* something was raised or lowered after the order had been submitted */
    HL_DENIED,       /* haltline's verdict: rule, why, scope, observed, limit */
    HL_FULL,         /* the lane to haltline is full: it takes nothing now */
    HL_NO_ANSWER,    /* no verdict in time; should it come it is not used: the order was withdrawn */
    HL_DAMAGED,      /* a lane holds what nobody can have meant: what, position, found. Detach and attach anew */
    HL_BAD_VERDICT,  /* the verdict says something that does not exist: what, found */
    HL_NO_REQUEST,   /* not HL_NEW or HL_REPLACE: nothing to ask for */
    HL_BAD_EVENT,    /* a field of the event is out of range: what, found. It was not taken */
    HL_HELD,         /* a pass is held already by this end: hl_exit it first */
    HL_NOTHING       /* only hl_poll and hl_next_instruction: none has come */
} hl_reason;

/* More about a reason. Only the fields that the reason names mean something; the others are 0. */
typedef struct hl_denied {
    hl_reason reason;
    uint8_t scope_kind;      /* HL_FIRM ... HL_SESSION */
    uint8_t mode;            /* HL_REDUCE_ONLY or HL_HALTED */
    uint8_t rule;            /* see hl_rule_name */
    uint8_t why;             /* see hl_why_name */
    uint16_t scope_strategy; /* HL_PAIR: its strategy */
    uint32_t scope_index;    /* id of the account, strategy, instrument (also a pair's) or session */
    uint64_t epoch;          /* when the scope got its mode, on the page's counter */
    uint64_t lapsed_ns;      /* how long ago the lease ended; UINT64_MAX: there never was one */
    int64_t observed;        /* in the rule's unit */
    int64_t limit;           /* what would have been allowed, in the same unit */
    const char *what;        /* which field, or what kind of damage */
    uint64_t position;       /* of the record that was looked at */
    uint64_t found;          /* the value that is wrong */
} hl_denied;

/* An event: an order, a cancel, or what the venue said. Begin with hl_event_of(kind), then set what the kind has. */
typedef struct hl_event {
    uint8_t kind;        /* HL_NEW ... */
    uint8_t side;        /* HL_BUY, HL_SELL: of HL_NEW and HL_FILL; a short sale is a sell */
    uint8_t ord_type;    /* HL_LIMIT ...: of HL_NEW and HL_REPLACE */
    uint16_t account;    /* of HL_NEW, and must be the strategy's: see hl_account_of */
    uint16_t strategy;   /* of orders and fills */
    uint32_t instrument; /* of orders, fills and HL_MARK */
    uint64_t sent_at;    /* the sender's clock, ns since 1970; 0: not said */
    uint64_t id;         /* cl_ord_id, 1 to 2^63-1, never used twice in a session. Bust, correct: the exec id meant */
    uint64_t ref_id;     /* orig_cl_ord_id, exec id (1 to 2^63-1), or a new order's parent (0: none) */
    int64_t qty;         /* > 0 where the kind has one; in the instrument's quantity unit (10^-qty_scale) */
    int64_t px;          /* in the instrument's price unit (10^-px_scale) */
} hl_event;

/* A verdict as it came. An order that was admitted still needs its pass: hl_pass. */
typedef struct hl_answered {
    uint64_t seq;    /* of the request: hl_seq(asker, position) */
    uint64_t id;     /* the request's id */
    uint8_t kind;    /* HL_NEW or HL_REPLACE */
    bool admitted;   /* whether haltline admitted it */
    hl_denied denied; /* why not */
    uint64_t checks; /* one bit per rule: the checks that ran */
    uint64_t epoch;  /* the page's next epoch when the order was submitted */
    uint16_t strategy;
    uint32_t instrument;
} hl_answered;

/* What haltline wants done about orders that work under a halt: hl_next_instruction. */
typedef struct hl_instruction {
    uint8_t kind;         /* HL_DO_CANCEL, HL_DO_MASS_CANCEL or HL_DO_DISCONNECT */
    uint8_t attempt;      /* of HL_DO_CANCEL: from 1 */
    uint8_t scope_kind;   /* the halted scope: HL_FIRM ... HL_SESSION */
    uint16_t session;     /* of HL_DO_CANCEL: the session that the order is of, nearly always this one */
    uint32_t scope_index; /* id of the account, strategy, instrument or session */
    uint64_t id;          /* of HL_DO_CANCEL: the order's */
} hl_instruction;

/* ------------------------------------------------------------------------------------------------------------------ */
/* Objects. Their fields are to be read where a comment says so, and never to be written. */

/* The halt page as a gate of one session reads it. */
typedef struct hl_page {
    const uint64_t *words;
    size_t len;
    uint32_t accounts, strategies, instruments, sessions;
    size_t account_of;
    uint16_t session;
} hl_page;

/* An attached session. */
typedef struct hl_gate {
    hl_page page;
    uint64_t *region;
    size_t region_words;
    uint64_t *bell;
    uint64_t base;
    uint32_t events, verdicts, slots;
    uint16_t session; /* readable: the session's id */
    uint8_t kind;     /* readable: HL_KIND_ASK or HL_KIND_OBSERVE */
    uint8_t fencing;  /* readable: HL_FENCE or HL_MEMBARRIER */
    int socket;
    int region_fd;
    uint32_t unanswered; /* requests whose answers have not been read: they come first */
    uint32_t busy;       /* 1: a thread is in a call that uses the socket */
    uint32_t ends;       /* checkers, the asker's among them */
    uint32_t asker;      /* 1: there is one */
    struct stat page_file;
} hl_gate;

/* A feature flag and its value: HL_NAME_MAX bytes each at most. */
typedef struct hl_flag {
    const char *name;
    const char *value;
} hl_flag;

/*
 * What a gateway says of itself. Everything may be NULL. It is compared with the manifest of approved builds; what haltline
 * can measure of the process counts for more.
 */
typedef struct hl_claim {
    const char *build;       /* what it calls its build, HL_NAME_MAX bytes at most */
    const char *config_hash; /* of its configuration, 8 to 64 digits out of 0-9 a-f */
    const char *host;        /* HL_NAME_MAX bytes at most */
    const hl_flag *flags;    /* `flag_count` of them, 64 at most, each name once */
    size_t flag_count;
} hl_claim;

/* One order thread's end of the gate. */
typedef struct hl_checker {
    uint64_t *slot;
    uint64_t state;
    hl_page page;
    uint8_t fencing;
    hl_gate *gate;
} hl_checker;

/* The writing end of a lane. */
typedef struct hl_writer {
    uint64_t *places;
    uint64_t *cursor;
    uint64_t mask;
    uint64_t next; /* the position of the next record */
    uint64_t read; /* the cursor as last seen */
} hl_writer;

/* The reading end of a lane. */
typedef struct hl_reader {
    uint64_t *places;
    uint64_t *cursor;
    uint64_t mask;
    uint64_t next; /* the position of the next record */
} hl_reader;

/* What is remembered of a request until its verdict comes. */
typedef struct hl_waiting {
    uint64_t position; /* 0: none */
    uint64_t epoch;
    uint32_t instrument;
    uint16_t strategy;
    bool withdrawn;
} hl_waiting;

/* The one end of a session that asks and reports. */
typedef struct hl_asker {
    hl_checker checker; /* hl_admit and hl_exit may be used with it */
    hl_writer events;
    hl_reader verdicts;
    hl_waiting *waiting;
    uint64_t *answered; /* the last position whose verdict was read */
    uint64_t base;
    hl_instruction *instructions; /* a ring, as many as the verdict lane has places */
    uint32_t instructions_first, instructions_len;
} hl_asker;

/* ------------------------------------------------------------------------------------------------------------------ */
/* Names */

/* The word for a rule, a why, a mode, a scope kind; "?" if there is none. Any thread. */
HL_I_FN const char *hl_rule_name(unsigned rule) {
    static const char *const names[] = {
        "malformed", "capacity", "stream_gap", "heartbeat_loss", "clock_skew", "mode", "unknown_entity", "duplicate_id",
        "unknown_order", "permission", "restricted", "side_permission", "order_qty", "order_notional",
        "order_participation", "collar", "duplicate_order", "position_long", "position_short", "day_participation",
        "gross_exposure", "net_long", "net_short", "working_orders", "order_rate", "message_rate", "cancel_rate",
        "repeated_orders", "repeated_executions", "daily_loss", "drawdown", "loss_velocity", "denials",
        "journal", "parent_qty", "parent_state", "parent_px", "children", "fan_out", "orphan_fills", "suspense",
        "coverage"};
    return rule < sizeof names / sizeof names[0] ? names[rule] : "?";
}
#define HL_RULES 42u

HL_I_FN const char *hl_why_name(unsigned why) {
    static const char *const names[] = {"breach",   "reference_missing", "reference_stale", "fx_missing",
                                        "fx_stale", "volume_missing",    "unrepresentable"};
    return why < sizeof names / sizeof names[0] ? names[why] : "?";
}
#define HL_WHYS 7u

HL_I_FN const char *hl_mode_name(unsigned mode) {
    static const char *const names[] = {"normal", "reduce_only", "halted"};
    return mode < sizeof names / sizeof names[0] ? names[mode] : "?";
}

HL_I_FN const char *hl_scope_name(unsigned kind) {
    static const char *const names[] = {"firm", "account", "strategy", "pair", "instrument", "session"};
    return kind < sizeof names / sizeof names[0] ? names[kind] : "?";
}

/* Writes `denied` as a line for people into `out` of `len` bytes, cut off where it does not fit. Formats: not for the hot
 * path. Returns `out`. Any thread. */
HL_I_COLD const char *hl_denied_text(const hl_denied *denied, char *out, size_t len) {
    const char *kind = hl_scope_name(denied->scope_kind);
    char where[64];
    if (denied->scope_kind == HL_FIRM)
        (void)snprintf(where, sizeof where, "%s", kind);
    else if (denied->scope_kind == HL_PAIR)
        (void)snprintf(where, sizeof where, "%s of strategy %u and instrument %lu", kind,
                       (unsigned)denied->scope_strategy, (unsigned long)denied->scope_index);
    else
        (void)snprintf(where, sizeof where, "%s %lu", kind, (unsigned long)denied->scope_index);
    switch (denied->reason) {
    case HL_OK:
        (void)snprintf(out, len, "admitted");
        break;
    case HL_CLOSED:
        (void)snprintf(out, len, "%s is %s since epoch %llu", where, hl_mode_name(denied->mode),
                       (unsigned long long)denied->epoch);
        break;
    case HL_LAPSED:
        if (denied->lapsed_ns == UINT64_MAX)
            (void)snprintf(out, len, "haltline has given no lease");
        else
            (void)snprintf(out, len, "haltline's lease lapsed %llu ns ago", (unsigned long long)denied->lapsed_ns);
        break;
    case HL_RETIRED:
        (void)snprintf(out, len, "the halt page is out of service");
        break;
    case HL_UNKNOWN:
        (void)snprintf(out, len, "strategy or instrument is not on the halt page");
        break;
    case HL_CHANGED:
        (void)snprintf(out, len, "a scope was raised or lowered after the order had been submitted");
        break;
    case HL_DENIED:
        (void)snprintf(out, len, "%s at %s: %s, observed %lld, limit %lld", hl_rule_name(denied->rule), where,
                       hl_why_name(denied->why), (long long)denied->observed, (long long)denied->limit);
        break;
    case HL_FULL:
        (void)snprintf(out, len, "the lane to haltline is full");
        break;
    case HL_NO_ANSWER:
        (void)snprintf(out, len, "no verdict in time");
        break;
    case HL_DAMAGED:
        (void)snprintf(out, len, "damaged lane: %s %llu at position %llu", denied->what ? denied->what : "?",
                       (unsigned long long)denied->found, (unsigned long long)denied->position);
        break;
    case HL_BAD_VERDICT:
        (void)snprintf(out, len, "the verdict's %s %llu does not exist", denied->what ? denied->what : "?",
                       (unsigned long long)denied->found);
        break;
    case HL_NO_REQUEST:
        (void)snprintf(out, len, "only new and replace are asked for");
        break;
    case HL_BAD_EVENT:
        (void)snprintf(out, len, "the event's %s is %llu, which does not exist", denied->what ? denied->what : "?",
                       (unsigned long long)denied->found);
        break;
    case HL_HELD:
        (void)snprintf(out, len, "the pass before was not exited");
        break;
    case HL_NOTHING:
        (void)snprintf(out, len, "no verdict has come");
        break;
    }
    return out;
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: words, barrier, clock */

/* Sets `denied`, if there is one. The reason is returned by the caller, where the compiler sees that it is not HL_OK. */
HL_I_COLD void hl_i_say(hl_denied *denied, hl_reason reason, const char *what, uint64_t position, uint64_t found) {
    if (denied == NULL)
        return;
    memset(denied, 0, sizeof *denied);
    denied->reason = reason;
    denied->what = what;
    denied->position = position;
    denied->found = found;
}

HL_I_HOT hl_reason hl_i_deny(hl_denied *denied, hl_reason reason) {
    hl_i_say(denied, reason, NULL, 0, 0);
    return reason;
}

HL_I_HOT hl_reason hl_i_wrong(hl_denied *denied, hl_reason reason, const char *what, uint64_t position, uint64_t found) {
    hl_i_say(denied, reason, what, position, found);
    return reason;
}

HL_I_HOT uint64_t hl_i_relaxed(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
HL_I_HOT uint64_t hl_i_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
HL_I_HOT void hl_i_release(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

/* The gate's half of the barrier between "I am inside" and the look at the page. haltline's half is membarrier(2), which
 * reaches this process if it has registered, and needs only the compiler to keep the order here. */
HL_I_HOT void hl_i_light(uint8_t fencing) {
    /* SYNC gate: pairs with `heavy` of src/ring/barrier.rs. */
    if (fencing == HL_MEMBARRIER)
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    else
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Makes this process one that haltline's membarrier reaches. Where the kernel cannot, every entry fences. */
HL_I_FN uint8_t hl_i_register(void) {
    const long global_expedited = 1 << 1, register_global_expedited = 1 << 2;
    const long needed = global_expedited | register_global_expedited;
    const long can = syscall(SYS_membarrier, 0, 0, 0);
    if (can >= 0 && (can & needed) == needed && syscall(SYS_membarrier, register_global_expedited, 0, 0) == 0)
        return HL_MEMBARRIER;
    return HL_FENCE;
}

/* CLOCK_MONOTONIC in ns: the clock of the lease and of haltline's receipts. No system call where the machine's clock
 * source has a vDSO (tsc, arch_sys_counter, kvm-clock, hyperv). Any thread. */
HL_I_HOT uint64_t hl_clock(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

HL_I_HOT void hl_i_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: the halt page */

typedef struct hl_i_word {
    uint8_t mode;
    uint64_t epoch;
} hl_i_word;

/* The word of a scope; one that is not on the page is halted. */
HL_I_FN hl_i_word hl_i_page_word(const hl_page *page, unsigned kind, uint64_t index) {
    size_t from = HL_I_PAGE_AT_WORDS;
    uint64_t count = 0;
    switch (kind) {
    case HL_FIRM:
        count = 1;
        break;
    case HL_ACCOUNT:
        from += 1;
        count = page->accounts;
        break;
    case HL_STRATEGY:
        from += (size_t)1 + page->accounts;
        count = page->strategies;
        break;
    case HL_INSTRUMENT:
        from += (size_t)1 + page->accounts + page->strategies;
        count = page->instruments;
        break;
    case HL_SESSION:
        from += (size_t)1 + page->accounts + page->strategies + page->instruments;
        count = page->sessions;
        break;
    default:
        break;
    }
    hl_i_word word = {HL_HALTED, 0};
    if (index < count) {
        const uint64_t value = hl_i_acquire(&page->words[from + index]);
        const uint64_t mode = value >> HL_I_EPOCH_BITS;
        word.mode = mode > HL_HALTED ? (uint8_t)HL_HALTED : (uint8_t)mode;
        word.epoch = value & ((UINT64_C(1) << HL_I_EPOCH_BITS) - 1);
    }
    return word;
}

/* The account of a strategy; one that does not exist if the strategy does not. */
HL_I_FN uint16_t hl_i_account_of(const hl_page *page, uint16_t strategy) {
    return strategy < page->strategies ? (uint16_t)hl_i_relaxed(&page->words[page->account_of + strategy]) : UINT16_MAX;
}

#define HL_I_SCOPES 5
typedef struct hl_i_scope {
    uint8_t kind;
    uint32_t index;
} hl_i_scope;

/* The scopes of an order that have a word, in the order in which they are looked at. */
HL_I_FN void hl_i_scopes(const hl_page *page, uint16_t strategy, uint32_t instrument, hl_i_scope scopes[HL_I_SCOPES]) {
    scopes[0].kind = HL_FIRM;
    scopes[0].index = 0;
    scopes[1].kind = HL_ACCOUNT;
    scopes[1].index = hl_i_account_of(page, strategy);
    scopes[2].kind = HL_STRATEGY;
    scopes[2].index = strategy;
    scopes[3].kind = HL_INSTRUMENT;
    scopes[3].index = instrument;
    scopes[4].kind = HL_SESSION;
    scopes[4].index = page->session;
}

HL_I_COLD hl_reason hl_i_check_words(const hl_page *page, uint16_t strategy, uint32_t instrument, bool allow_reduce,
                                     hl_denied *denied) {
    if (hl_i_acquire(&page->words[HL_I_PAGE_AT_STATE]) != HL_I_PAGE_IN_SERVICE)
        return hl_i_deny(denied, HL_RETIRED);
    if (strategy >= page->strategies || instrument >= page->instruments)
        return hl_i_deny(denied, HL_UNKNOWN);
    hl_i_scope scopes[HL_I_SCOPES];
    hl_i_scopes(page, strategy, instrument, scopes);
    uint8_t worst = allow_reduce ? (uint8_t)HL_REDUCE_ONLY : (uint8_t)HL_NORMAL;
    bool closed = false;
    for (size_t i = 0; i < HL_I_SCOPES; i++) {
        const hl_i_word word = hl_i_page_word(page, scopes[i].kind, scopes[i].index);
        if (word.mode <= worst)
            continue;
        worst = word.mode;
        closed = true;
        if (denied != NULL) {
            (void)hl_i_deny(denied, HL_CLOSED);
            denied->scope_kind = scopes[i].kind;
            denied->scope_index = scopes[i].index;
            denied->mode = word.mode;
            denied->epoch = word.epoch;
        }
    }
    return closed ? HL_CLOSED : HL_OK;
}

/* Whether the modes let an order pass: one load while nothing anywhere is raised. */
HL_I_HOT hl_reason hl_i_check_modes(const hl_page *page, uint16_t strategy, uint32_t instrument, bool allow_reduce,
                                    hl_denied *denied) {
    /* SYNC word: acquire, behind the barrier of the slot; see `HaltPage::raise` for the order of count and word. */
    if (HL_I_LIKELY(hl_i_acquire(&page->words[HL_I_PAGE_AT_RAISED]) == 0 && strategy < page->strategies &&
                    instrument < page->instruments))
        return HL_OK;
    return hl_i_check_words(page, strategy, instrument, allow_reduce, denied);
}

HL_I_COLD hl_reason hl_i_lapsed(uint64_t until, uint64_t now, hl_denied *denied) {
    (void)hl_i_deny(denied, HL_LAPSED);
    if (denied != NULL)
        denied->lapsed_ns = until == 0 ? UINT64_MAX : now - until;
    return HL_LAPSED;
}

HL_I_HOT hl_reason hl_i_check_lease(const hl_page *page, uint64_t now, hl_denied *denied) {
    const uint64_t until = hl_i_acquire(&page->words[HL_I_PAGE_AT_LEASE]);
    return HL_I_LIKELY(now < until) ? HL_OK : hl_i_lapsed(until, now, denied);
}

HL_I_COLD hl_reason hl_i_check_epochs(const hl_page *page, uint64_t epoch, uint16_t strategy, uint32_t instrument,
                                      hl_denied *denied) {
    hl_i_scope scopes[HL_I_SCOPES];
    hl_i_scopes(page, strategy, instrument, scopes);
    for (size_t i = 0; i < HL_I_SCOPES; i++)
        if (hl_i_page_word(page, scopes[i].kind, scopes[i].index).epoch >= epoch)
            return hl_i_deny(denied, HL_CHANGED);
    return HL_OK;
}

/* Whether no scope of an order was raised or lowered since the page's next epoch was `epoch`. */
HL_I_HOT hl_reason hl_i_check_unchanged(const hl_page *page, uint64_t epoch, uint16_t strategy, uint32_t instrument,
                                        hl_denied *denied) {
    if (HL_I_LIKELY(hl_i_acquire(&page->words[HL_I_PAGE_AT_EPOCH]) == epoch))
        return HL_OK;
    return hl_i_check_epochs(page, epoch, strategy, instrument, denied);
}

/* The page in `words` for a gate of `session`; NULL, or what is wrong with it. */
HL_I_FN const char *hl_i_page_read(hl_page *page, const uint64_t *words, size_t len, uint16_t session) {
    if (len <= HL_I_PAGE_AT_STATE)
        return "is shorter than its header";
    if (hl_i_acquire(&words[0]) != HL_I_PAGE_MAGIC)
        return "is none: its first word is wrong";
    if (hl_i_acquire(&words[HL_I_PAGE_AT_VERSION]) != (HL_I_PAGE_VERSION | (uint64_t)HL_I_PAGE_AT_WORDS << 32))
        return "has another layout version than 1";
    page->words = words;
    page->len = len;
    page->session = session;
    page->accounts = (uint32_t)hl_i_acquire(&words[HL_I_PAGE_AT_ACCOUNTS]);
    page->strategies = (uint32_t)(hl_i_acquire(&words[HL_I_PAGE_AT_ACCOUNTS]) >> 32);
    page->instruments = (uint32_t)hl_i_acquire(&words[HL_I_PAGE_AT_INSTRUMENTS]);
    page->sessions = (uint32_t)(hl_i_acquire(&words[HL_I_PAGE_AT_INSTRUMENTS]) >> 32);
    page->account_of =
        (size_t)HL_I_PAGE_AT_WORDS + 1 + page->accounts + page->strategies + page->instruments + page->sessions;
    if (len < page->account_of + page->strategies)
        return "is shorter than its header says";
    if (session >= page->sessions)
        return "does not have the session";
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: lanes */

/* 32 bits that change when any bit of `record` outside the check itself does. */
HL_I_HOT uint32_t hl_i_check_of(const uint64_t record[HL_I_RECORD_WORDS]) {
    const uint64_t k = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t even = UINT64_C(0x243F6A8885A308D3) ^ (record[0] & ~HL_I_CHECK_0);
    uint64_t odd = UINT64_C(0x13198A2E03707344) ^ (record[1] & ~HL_I_CHECK_1);
    for (size_t i = 2; i < HL_I_RECORD_WORDS; i += 2) {
        even *= k;
        even = (even << 29 | even >> 35) ^ record[i];
        odd *= k;
        odd = (odd << 29 | odd >> 35) ^ record[i + 1];
    }
    even *= k;
    const uint64_t all = ((even << 32 | even >> 32) ^ odd) * k;
    return (uint32_t)(all ^ (all >> 32));
}

HL_I_HOT uint32_t hl_i_check_in(const uint64_t record[HL_I_RECORD_WORDS]) {
    return (uint32_t)((record[0] & HL_I_CHECK_0) >> 32) | (uint32_t)(record[1] & HL_I_CHECK_1);
}

/* The place of position `p`, and the stamp that it had a lap ago. */
HL_I_HOT uint64_t *hl_i_place(uint64_t *places, uint64_t mask, uint64_t p) {
    return &places[((p - 1) & mask) * HL_I_RECORD_WORDS];
}
HL_I_HOT uint64_t hl_i_lap_ago(uint64_t mask, uint64_t p) { return p > mask + 1 ? p - (mask + 1) : 0; }

/* The writing end of a lane of `count` places, a power of two, behind the last record that is there. */
HL_I_FN hl_reason hl_i_writer_resume(hl_writer *writer, uint64_t *places, uint64_t count, uint64_t *cursor,
                                     hl_denied *denied) {
    const uint64_t mask = count - 1;
    const uint64_t read = hl_i_acquire(cursor);
    if (read > UINT64_MAX / 2)
        return hl_i_wrong(denied, HL_DAMAGED, "cursor", read, read);
    uint64_t next = read + 1;
    while (next <= read + count && hl_i_acquire(&hl_i_place(places, mask, next)[HL_I_STAMP]) == next)
        next++;
    writer->places = places;
    writer->cursor = cursor;
    writer->mask = mask;
    writer->next = next;
    writer->read = read;
    return HL_OK;
}

/* How many records fit now. */
HL_I_FN hl_reason hl_i_writer_room(hl_writer *writer, uint64_t *room, hl_denied *denied) {
    /* SYNC lane cursor: pairs with the store in `Reader::release`; what lies before it has been copied. */
    const uint64_t read = hl_i_acquire(writer->cursor);
    if (read < writer->read || read >= writer->next)
        return hl_i_wrong(denied, HL_DAMAGED, "cursor", writer->next, read);
    writer->read = read;
    *room = writer->mask + 1 - (writer->next - 1 - read);
    return HL_OK;
}

/* Writes `record`, whose stamp and check are set here. HL_OK, HL_FULL or HL_DAMAGED. */
HL_I_HOT hl_reason hl_i_writer_push(hl_writer *writer, uint64_t record[HL_I_RECORD_WORDS], hl_denied *denied) {
    const uint64_t position = writer->next;
    if (HL_I_UNLIKELY(position - writer->read > writer->mask + 1)) {
        uint64_t room = 0;
        const hl_reason bad = hl_i_writer_room(writer, &room, denied);
        if (bad != HL_OK)
            return bad;
        if (room == 0)
            return hl_i_deny(denied, HL_FULL);
    }
    record[HL_I_STAMP] = position;
    const uint64_t check = hl_i_check_of(record);
    record[0] = (record[0] & ~HL_I_CHECK_0) | (check & 0xFFFF) << 32;
    record[1] = (record[1] & ~HL_I_CHECK_1) | (check >> 16) << 16;
    uint64_t *const words = hl_i_place(writer->places, writer->mask, position);
    for (size_t i = 0; i < HL_I_RECORD_WORDS; i++)
        if (i != HL_I_STAMP)
            __atomic_store_n(&words[i], record[i], __ATOMIC_RELAXED);
    /* SYNC lane stamp: pairs with the load in `Reader::take`. */
    hl_i_release(&words[HL_I_STAMP], position);
    writer->next = position + 1;
    return HL_OK;
}

/* The reading end of a lane, where its cursor says that it is. */
HL_I_FN void hl_i_reader_resume(hl_reader *reader, uint64_t *places, uint64_t count, uint64_t *cursor) {
    uint64_t read = hl_i_acquire(cursor);
    if (read > UINT64_MAX / 2)
        read = UINT64_MAX / 2;
    hl_i_release(cursor, read);
    reader->places = places;
    reader->cursor = cursor;
    reader->mask = count - 1;
    reader->next = read + 1;
}

/* Takes the next record. HL_OK, HL_NOTHING or HL_DAMAGED. */
HL_I_HOT hl_reason hl_i_reader_pop(hl_reader *reader, uint64_t record[HL_I_RECORD_WORDS], hl_denied *denied) {
    const uint64_t position = reader->next;
    const uint64_t *const words = hl_i_place(reader->places, reader->mask, position);
    /* SYNC lane stamp: pairs with the store in `Writer::push`. */
    const uint64_t stamp = hl_i_acquire(&words[HL_I_STAMP]);
    if (stamp != position) {
        if (HL_I_LIKELY(stamp == hl_i_lap_ago(reader->mask, position)))
            return HL_NOTHING;
        return hl_i_wrong(denied, HL_DAMAGED, "stamp", position, stamp);
    }
    for (size_t i = 0; i < HL_I_RECORD_WORDS; i++)
        record[i] = hl_i_relaxed(&words[i]);
    record[HL_I_STAMP] = stamp;
    if (HL_I_UNLIKELY(hl_i_check_in(record) != hl_i_check_of(record)))
        return hl_i_wrong(denied, HL_DAMAGED, "check", position, hl_i_check_in(record));
    reader->next = position + 1;
    /* SYNC lane cursor: pairs with the load in `Writer::room`. */
    hl_i_release(reader->cursor, position);
    return HL_OK;
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: records, the bell */

HL_I_HOT hl_reason hl_i_bad_event(hl_denied *denied, const char *what, uint64_t found) {
    return hl_i_wrong(denied, HL_BAD_EVENT, what, 0, found);
}

/* The words of an event. HL_OK or HL_BAD_EVENT. */
HL_I_HOT hl_reason hl_i_event_record(const hl_event *event, uint64_t record[HL_I_RECORD_WORDS], hl_denied *denied) {
    if (HL_I_UNLIKELY(event->kind < HL_NEW || event->kind > HL_PARENT_DONE))
        return hl_i_bad_event(denied, "kind", event->kind);
    if (HL_I_UNLIKELY(event->side < HL_BUY || event->side > HL_SELL))
        return hl_i_bad_event(denied, "side", event->side);
    if (HL_I_UNLIKELY(event->ord_type < HL_LIMIT || event->ord_type > HL_STOP_LIMIT))
        return hl_i_bad_event(denied, "ord_type", event->ord_type);
    record[0] = (uint64_t)event->kind | (uint64_t)event->side << 8 | (uint64_t)event->ord_type << 16 |
                (uint64_t)event->account << 48;
    record[1] = (uint64_t)event->strategy | (uint64_t)event->instrument << 32;
    record[2] = 0;
    record[3] = event->sent_at;
    record[4] = event->id;
    record[5] = event->ref_id;
    record[6] = (uint64_t)event->qty;
    record[7] = (uint64_t)event->px;
    return HL_OK;
}

HL_I_HOT hl_reason hl_i_bad_verdict(hl_denied *denied, const char *what, uint64_t found) {
    return hl_i_wrong(denied, HL_BAD_VERDICT, what, 0, found);
}

/* The verdict of a record. HL_OK or HL_BAD_VERDICT. */
HL_I_FN hl_reason hl_i_verdict_of(const uint64_t record[HL_I_RECORD_WORDS], hl_answered *answered, hl_denied *denied) {
    const uint8_t kind = (uint8_t)record[0], is_denied = (uint8_t)(record[0] >> 8);
    const uint8_t rule = (uint8_t)(record[0] >> 16), why = (uint8_t)(record[0] >> 24);
    const uint8_t scope = (uint8_t)(record[0] >> 48);
    if (kind < HL_NEW || kind > HL_PARENT_DONE)
        return hl_i_bad_verdict(denied, "kind", kind);
    if (is_denied > 1)
        return hl_i_bad_verdict(denied, "denied", is_denied);
    memset(answered, 0, sizeof *answered);
    answered->seq = record[3];
    answered->id = record[4];
    answered->kind = kind;
    answered->admitted = is_denied == 0;
    answered->checks = record[7];
    if (is_denied == 0)
        return HL_OK;
    if (rule >= HL_RULES)
        return hl_i_bad_verdict(denied, "rule", rule);
    if (why >= HL_WHYS)
        return hl_i_bad_verdict(denied, "why", why);
    if (scope > HL_SESSION)
        return hl_i_bad_verdict(denied, "scope", scope);
    hl_denied *const d = &answered->denied;
    d->reason = HL_DENIED;
    d->rule = rule;
    d->why = why;
    d->scope_kind = scope;
    d->observed = (int64_t)record[5];
    d->limit = (int64_t)record[6];
    const uint32_t index = (uint32_t)(record[1] >> 32);
    if (scope == HL_PAIR)
        d->scope_strategy = (uint16_t)record[1];
    if (scope == HL_PAIR || scope == HL_INSTRUMENT)
        d->scope_index = index;
    else if (scope != HL_FIRM)
        d->scope_index = (uint16_t)index;
    return HL_OK;
}

/* Half of a shared word: futexes know 32 bits only. */
typedef uint32_t __attribute__((may_alias)) hl_i_half;

HL_I_COLD void hl_i_wake(uint64_t *bell) {
    hl_i_half *const count = (hl_i_half *)&bell[HL_I_BELL_COUNT];
    (void)__atomic_fetch_add(count, 1, __ATOMIC_SEQ_CST);
    const long futex_wake = 1, one = 1;
    (void)syscall(SYS_futex, count, futex_wake, one, NULL, NULL, 0);
}

/* Wakes the engine if it sleeps: the one case in which a call of the hot path enters the kernel. */
HL_I_HOT void hl_i_ring(uint64_t *bell) {
    /* SYNC bell: pairs with the fence in `Bell::nap`: either it is seen asleep, or it sees our record. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (HL_I_UNLIKELY(hl_i_relaxed(&bell[HL_I_BELL_ASLEEP]) != 0))
        hl_i_wake(bell);
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: the region */

/* Reads the header of the region in `words` into `gate`; NULL, or which field is impossible. */
HL_I_FN const char *hl_i_region_read(hl_gate *gate, uint64_t *words, size_t len) {
    if (len < HL_I_REGION_AT_BODY)
        return "size";
    if (hl_i_acquire(&words[0]) != HL_I_REGION_MAGIC)
        return "magic";
    if (hl_i_acquire(&words[1]) != HL_I_REGION_VERSION)
        return "layout version";
    const uint64_t session = hl_i_acquire(&words[HL_I_REGION_AT_SESSION]);
    const uint64_t kind = session >> 16;
    if (kind != HL_KIND_ASK && kind != HL_KIND_OBSERVE)
        return "kind";
    const uint64_t places = hl_i_acquire(&words[HL_I_REGION_AT_PLACES]);
    const uint64_t slots = hl_i_acquire(&words[HL_I_REGION_AT_SLOTS]);
    const uint32_t events = (uint32_t)places, verdicts = (uint32_t)(places >> 32);
    if (slots == 0 || slots > HL_I_MAX_SLOTS)
        return "slots";
    if (events == 0 || (events & (events - 1)) != 0 || events > HL_I_MAX_PLACES)
        return "event places";
    if (verdicts == 0 || (verdicts & (verdicts - 1)) != 0 || verdicts > HL_I_MAX_PLACES)
        return "verdict places";
    const uint64_t base = hl_i_acquire(&words[HL_I_REGION_AT_BASE]);
    if (base > UINT64_MAX / 4)
        return "base";
    const uint64_t needed =
        HL_I_REGION_AT_BODY + slots * HL_I_SLOT_WORDS + ((uint64_t)events + verdicts) * HL_I_RECORD_WORDS;
    if (len != (needed + 511) / 512 * 512)
        return "size";
    gate->region = words;
    gate->region_words = len;
    gate->session = (uint16_t)session;
    gate->kind = (uint8_t)kind;
    gate->base = base;
    gate->events = events;
    gate->verdicts = verdicts;
    gate->slots = (uint32_t)slots;
    return NULL;
}

HL_I_FN uint64_t *hl_i_region_slots(const hl_gate *gate) { return &gate->region[HL_I_REGION_AT_BODY]; }
HL_I_FN uint64_t *hl_i_region_events(const hl_gate *gate) {
    return hl_i_region_slots(gate) + (size_t)gate->slots * HL_I_SLOT_WORDS;
}
HL_I_FN uint64_t *hl_i_region_verdicts(const hl_gate *gate) {
    return hl_i_region_events(gate) + (size_t)gate->events * HL_I_RECORD_WORDS;
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Inside: the local socket */

static __attribute__((cold, noinline, unused, format(printf, 4, 5))) hl_status
hl_i_fail(hl_error *error, hl_status status, uint16_t refused, const char *format, ...) {
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        error->refused = refused;
        (void)vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return status;
}

HL_I_FN hl_status hl_i_io(hl_error *error, const char *what) {
    const char *why = strerror(errno);
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        why = "no answer in time";
    return hl_i_fail(error, HL_E_IO, 0, "haltline cannot be reached: %s: %s", what, why);
}

HL_I_FN hl_status hl_i_put_text(char *out, size_t max, const char *text, const char *field, hl_error *error) {
    const size_t len = text == NULL ? 0 : strlen(text);
    if (len > max)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "%s has %zu bytes; there may be %zu", field, len, max);
    if (len != 0)
        memcpy(out, text, len);
    return HL_DONE;
}

HL_I_FN void hl_i_head(char message[HL_I_HELLO_LEN], uint16_t op) {
    const uint32_t magic = HL_I_HELLO_MAGIC;
    const uint16_t version = HL_I_HELLO_VERSION;
    memset(message, 0, HL_I_HELLO_LEN);
    memcpy(message, &magic, sizeof magic);
    memcpy(message + 4, &version, sizeof version);
    memcpy(message + 6, &op, sizeof op);
}

HL_I_FN hl_status hl_i_attach_message(char message[HL_I_HELLO_LEN], const char *session, const char *token,
                                      const char *build, hl_error *error) {
    hl_i_head(message, HL_I_OP_ATTACH);
    if (session == NULL || session[0] == 0)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "session is empty");
    hl_status status = hl_i_put_text(message + 8, HL_NAME_MAX, session, "session", error);
    if (status == HL_DONE)
        status = hl_i_put_text(message + 72, HL_TOKEN_MAX, token, "token", error);
    if (status == HL_DONE)
        status = hl_i_put_text(message + 144, HL_NAME_MAX, build, "build", error);
    return status;
}

HL_I_FN hl_status hl_i_look_up_message(char message[HL_I_HELLO_LEN], uint64_t kind, const char *name, hl_error *error) {
    hl_i_head(message, HL_I_OP_LOOK_UP);
    memcpy(message + 8, &kind, sizeof kind);
    return hl_i_put_text(message + 16, HL_NAME_MAX, name, "name", error);
}

HL_I_FN hl_status hl_i_claim_message(char message[HL_I_HELLO_LEN], uint64_t what, const char *name, const char *value,
                                     hl_error *error) {
    hl_i_head(message, HL_I_OP_CLAIM);
    memcpy(message + 8, &what, sizeof what);
    hl_status status = hl_i_put_text(message + 16, HL_NAME_MAX, name, "flag", error);
    if (status == HL_DONE)
        status = hl_i_put_text(message + 80, HL_TOKEN_MAX, value, "claim", error);
    return status;
}

HL_I_FN hl_status hl_i_text_message(char message[HL_I_HELLO_LEN], uint64_t source, const char *text, hl_error *error) {
    hl_i_head(message, HL_I_OP_TEXT);
    if (source != HL_TEXT_LOG && source != HL_TEXT_REJECT)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "source is neither HL_TEXT_LOG nor HL_TEXT_REJECT");
    if (text == NULL || text[0] == 0)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "text is empty");
    size_t len = strlen(text);
    if (len > HL_TEXT_MAX) {
        /* Cut where a character begins: haltline takes nothing that is not UTF-8. */
        len = HL_TEXT_MAX;
        while (len > 0 && ((unsigned char)text[len] & 0xC0) == 0x80)
            len--;
    }
    memcpy(message + 8, &source, sizeof source);
    memcpy(message + 16, text, len);
    return HL_DONE;
}

/* Takes the eight numbers out of an answer of `len` bytes. */
HL_I_FN hl_status hl_i_answer(const char *message, size_t len, uint64_t numbers[8], hl_error *error) {
    uint32_t magic;
    uint16_t version, status;
    if (len != HL_I_HELLO_LEN)
        return hl_i_fail(error, HL_E_PROTOCOL, 0,
                         "haltline and this header do not fit together: an answer has %zu bytes instead of %d", len,
                         HL_I_HELLO_LEN);
    memcpy(&magic, message, sizeof magic);
    memcpy(&version, message + 4, sizeof version);
    memcpy(&status, message + 6, sizeof status);
    if (magic != HL_I_HELLO_MAGIC)
        return hl_i_fail(error, HL_E_PROTOCOL, 0, "haltline and this header do not fit together: not haltline's answer");
    if (version != HL_I_HELLO_VERSION)
        return hl_i_fail(error, HL_E_PROTOCOL, 0,
                         "haltline and this header do not fit together: messages of version %u, this header's are %d",
                         (unsigned)version, HL_I_HELLO_VERSION);
    if (status != 0)
        return hl_i_fail(error, HL_E_REFUSED, status, "haltline refused: %.184s", message + 72);
    memcpy(numbers, message + 8, 8 * sizeof numbers[0]);
    return HL_DONE;
}

/* What came with the answer to an attach. */
typedef struct hl_i_got {
    int socket, page_fd, region_fd, bell_fd;
    uint64_t session, region_words;
    bool membarrier; /* the kill's side passes the barrier for the gate; else the gate fences itself */
} hl_i_got;

HL_I_FN void hl_i_close(int *fd) {
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

HL_I_FN void hl_i_got_close(hl_i_got *got) {
    hl_i_close(&got->socket);
    hl_i_close(&got->page_fd);
    hl_i_close(&got->region_fd);
    hl_i_close(&got->bell_fd);
}

#define HL_I_FDS_MAX 4
union hl_i_control {
    struct cmsghdr header;
    char space[CMSG_SPACE(HL_I_FDS_MAX * sizeof(int))];
};

HL_I_FN hl_status hl_i_send(int socket, char message[HL_I_HELLO_LEN], int fd, uint64_t deadline, hl_error *error) {
    struct iovec part;
    part.iov_base = message;
    part.iov_len = HL_I_HELLO_LEN;
    struct msghdr header;
    memset(&header, 0, sizeof header);
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    union hl_i_control control;
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(sizeof(int));
        struct cmsghdr *const rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &header, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR && hl_clock() < deadline);
    return sent < 0 ? hl_i_io(error, "send") : HL_DONE;
}

/* Receives one packet of at most `room` bytes, and at most four descriptors with it, into `fds`. */
HL_I_FN hl_status hl_i_receive(int socket, char *message, size_t room, size_t *len, int fds[HL_I_FDS_MAX],
                               size_t *fd_count, uint64_t deadline, hl_error *error) {
    struct iovec part;
    part.iov_base = message;
    part.iov_len = room;
    union hl_i_control control;
    struct msghdr header;
    memset(&header, 0, sizeof header);
    memset(&control, 0, sizeof control);
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.space;
    header.msg_controllen = sizeof control.space;
    ssize_t got;
    do
        got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR && hl_clock() < deadline);
    *fd_count = 0;
    if (got < 0)
        return hl_i_io(error, "receive");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        const size_t bytes = c->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
            if (*fd_count < HL_I_FDS_MAX)
                fds[(*fd_count)++] = fd;
            else
                (void)close(fd);
        }
    }
    if (got == 0)
        return hl_i_fail(error, HL_E_IO, 0, "haltline cannot be reached: it closed the connection");
    *len = (size_t)got;
    return HL_DONE;
}

HL_I_FN uint64_t hl_i_deadline(uint32_t timeout_ms) {
    return hl_clock() + (uint64_t)(timeout_ms == 0 ? 1 : timeout_ms) * UINT64_C(1000000);
}

/* Says one thing of the gateway itself, and waits until it was taken. */
HL_I_FN hl_status hl_i_claim(int socket, uint64_t what, const char *name, const char *value, uint64_t deadline,
                           hl_error *error) {
    char message[HL_I_HELLO_LEN + 1];
    size_t len = 0, fd_count = 0;
    int fds[HL_I_FDS_MAX] = {-1, -1, -1, -1};
    uint64_t numbers[8];
    hl_status status = hl_i_claim_message(message, what, name, value, error);
    if (status == HL_DONE)
        status = hl_i_send(socket, message, -1, deadline, error);
    if (status == HL_DONE)
        status = hl_i_receive(socket, message, sizeof message, &len, fds, &fd_count, deadline, error);
    for (size_t at = 0; at < HL_I_FDS_MAX; at++)
        hl_i_close(&fds[at]);
    return status == HL_DONE ? hl_i_answer(message, len, numbers, error) : status;
}

/* Says all of `claim` but the build, which goes with the attach. */
HL_I_FN hl_status hl_i_claim_all(int socket, const hl_claim *claim, uint64_t deadline, hl_error *error) {
    hl_status status = HL_DONE;
    if (claim->config_hash != NULL)
        status = hl_i_claim(socket, HL_I_CLAIM_CONFIG_HASH, NULL, claim->config_hash, deadline, error);
    if (status == HL_DONE && claim->host != NULL)
        status = hl_i_claim(socket, HL_I_CLAIM_HOST, NULL, claim->host, deadline, error);
    for (size_t at = 0; status == HL_DONE && at < claim->flag_count; at++)
        status = hl_i_claim(socket, HL_I_CLAIM_FLAG, claim->flags[at].name, claim->flags[at].value, deadline, error);
    return status;
}

/* Connects and attaches. On success everything in `got` is the caller's to close. */
HL_I_FN hl_status hl_i_connect(const char *path, const char *session, const char *token, const hl_claim *claim,
                               uint32_t timeout_ms, int offered, hl_i_got *got, hl_error *error) {
    got->socket = got->page_fd = got->region_fd = got->bell_fd = -1;
    char message[HL_I_HELLO_LEN + 1];
    hl_status status = hl_i_attach_message(message, session, token, claim->build, error);
    if (status != HL_DONE)
        return status;
    struct sockaddr_un address;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (path == NULL || path[0] == 0 || strlen(path) >= sizeof address.sun_path)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "socket: the path must have 1 to %zu bytes",
                         sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path));
    got->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (got->socket < 0)
        return hl_i_io(error, "socket");
    if (timeout_ms == 0)
        timeout_ms = 1; /* For the kernel 0 is without an end. */
    struct timeval limit;
    memset(&limit, 0, sizeof limit);
    limit.tv_sec = (time_t)(timeout_ms / 1000);
    limit.tv_usec = (suseconds_t)(timeout_ms % 1000 * 1000);
    const uint64_t deadline = hl_i_deadline(timeout_ms);
    int connected = -1;
    if (setsockopt(got->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
        setsockopt(got->socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0) {
        do
            connected = connect(got->socket, (const struct sockaddr *)&address, sizeof address);
        while (connected < 0 && errno == EINTR && hl_clock() < deadline);
    }
    if (connected < 0) {
        status = hl_i_io(error, path);
        hl_i_got_close(got);
        return status;
    }
    size_t len = 0, fd_count = 0;
    int fds[HL_I_FDS_MAX] = {-1, -1, -1, -1};
    uint64_t numbers[8] = {0};
    status = hl_i_claim_all(got->socket, claim, deadline, error);
    if (status == HL_DONE)
        status = hl_i_send(got->socket, message, offered, deadline, error);
    if (status == HL_DONE)
        status = hl_i_receive(got->socket, message, sizeof message, &len, fds, &fd_count, deadline, error);
    if (status == HL_DONE)
        status = hl_i_answer(message, len, numbers, error);
    if (status == HL_DONE && fd_count != 3)
        status = hl_i_fail(error, HL_E_PROTOCOL, 0,
                           "haltline and this header do not fit together: %zu descriptors came instead of 3", fd_count);
    got->page_fd = fds[0];
    got->region_fd = fds[1];
    got->bell_fd = fds[2];
    if (status != HL_DONE) {
        hl_i_close(&fds[3]);
        hl_i_got_close(got);
        return status;
    }
    got->session = numbers[0];
    got->region_words = numbers[1];
    got->membarrier = numbers[2] == 1;
    return HL_DONE;
}

/* Maps the whole file behind `fd`, of `len` words (0: as many as it has), at `at` or anywhere. */
HL_I_FN hl_status hl_i_map(int fd, const char *name, bool sealed, bool write, uint64_t len, void *at, uint64_t **words,
                           size_t *has, hl_error *error) {
    struct stat file;
    if (fstat(fd, &file) != 0)
        return hl_i_io(error, name);
    /* The numbers of F_GET_SEALS and F_SEAL_SHRINK, whose names need _GNU_SOURCE. */
    const int get_seals = 1034, seal_shrink = 2;
    if (sealed) {
        const int seals = fcntl(fd, get_seals);
        if (seals < 0 || (seals & seal_shrink) == 0)
            return hl_i_fail(error, HL_E_PROTOCOL, 0, "the size of the %s is not sealed", name);
    }
    const uint64_t bytes = (uint64_t)file.st_size;
    if (file.st_size <= 0 || bytes % 8 != 0 || (len != 0 && bytes / 8 != len))
        return hl_i_fail(error, HL_E_PROTOCOL, 0, "the %s has %llu bytes, which cannot be", name,
                         (unsigned long long)bytes);
    void *const start = mmap(at, (size_t)bytes, write ? PROT_READ | PROT_WRITE : PROT_READ,
                             MAP_SHARED | MAP_POPULATE | (at != NULL ? MAP_FIXED : 0), fd, 0);
    if (start == MAP_FAILED)
        return hl_i_io(error, name);
    /* A forked child would use the same slots and positions in the same lanes: it does not get the memory at all. */
    if (madvise(start, (size_t)bytes, MADV_DONTFORK) != 0) {
        const hl_status status = hl_i_io(error, name);
        if (at == NULL)
            (void)munmap(start, (size_t)bytes);
        return status;
    }
    *words = (uint64_t *)start;
    *has = (size_t)(bytes / 8);
    return HL_DONE;
}

HL_I_FN void hl_i_unmap(const uint64_t *words, size_t len) {
    if (words != NULL)
        (void)munmap((void *)(uintptr_t)words, len * 8);
}

HL_I_FN void hl_i_gate_release(hl_gate *gate) {
    hl_i_unmap(gate->page.words, gate->page.len);
    hl_i_unmap(gate->region, gate->region_words);
    hl_i_unmap(gate->bell, HL_I_BELL_WORDS);
    hl_i_close(&gate->socket);
    hl_i_close(&gate->region_fd);
    gate->page.words = NULL;
    gate->region = gate->bell = NULL;
}

HL_I_FN bool hl_i_try_lock(uint32_t *busy) { return __atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE) == 0; }
HL_I_FN void hl_i_unlock(uint32_t *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
HL_I_FN hl_status hl_i_busy(hl_error *error) {
    return hl_i_fail(error, HL_E_BUSY, 0, "another thread is in such a call");
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Attach, look up, detach. These make system calls, and are not for order threads. */

/*
 * Attaches to the haltline whose local socket is at the path `socket`, as `session`.
 *
 * `session` has 1 to HL_NAME_MAX bytes; `token`, the session's, at most HL_TOKEN_MAX; `claim` is what this gateway says of itself.
 * haltline looks at the executable before it answers, which takes the time of reading that file once. Waits at most `timeout_ms` ms (0 counts as 1) for each step. `error` may be NULL.
 *
 * HL_DONE: `gate` is attached until hl_detach or the end of the process, and must stay where it is in memory. Else nothing is
 * held, and `gate` must not be used: HL_E_ARGUMENT, HL_E_IO, HL_E_REFUSED, HL_E_PROTOCOL.
 * One thread; `gate` must not be attached.
 */
HL_I_FN hl_status hl_attach_as(hl_gate *gate, const char *socket, const char *session, const char *token,
                               const hl_claim *claim, uint32_t timeout_ms, hl_error *error) {
    memset(gate, 0, sizeof *gate);
    gate->socket = gate->region_fd = -1;
    hl_i_got got;
    hl_status status = hl_i_connect(socket, session, token, claim, timeout_ms, -1, &got, error);
    if (status != HL_DONE)
        return status;
    uint64_t *words = NULL;
    size_t len = 0;
    const char *bad = NULL;
    status = hl_i_map(got.region_fd, "region", true, true, got.region_words, NULL, &words, &len, error);
    if (status == HL_DONE) {
        gate->region = words;
        gate->region_words = len;
        bad = hl_i_region_read(gate, words, len);
        if (bad != NULL)
            status = hl_i_fail(error, HL_E_PROTOCOL, 0,
                               "haltline and this header do not fit together: the region's %s cannot be", bad);
        else if (gate->session != got.session)
            status = hl_i_fail(error, HL_E_PROTOCOL, 0, "the region is another session's");
    }
    if (status == HL_DONE)
        status = hl_i_map(got.bell_fd, "bell", true, true, HL_I_BELL_WORDS, NULL, &gate->bell, &len, error);
    if (status == HL_DONE)
        status = hl_i_map(got.page_fd, "halt page", false, false, 0, NULL, &words, &len, error);
    if (status == HL_DONE) {
        gate->page.words = words;
        gate->page.len = len;
        bad = hl_i_page_read(&gate->page, words, len, gate->session);
        if (bad != NULL)
            status = hl_i_fail(error, HL_E_PROTOCOL, 0,
                               "haltline and this header do not fit together: the halt page %s", bad);
    }
    if (status == HL_DONE && fstat(got.page_fd, &gate->page_file) != 0)
        status = hl_i_io(error, "halt page");
    if (status == HL_DONE) {
        gate->fencing = got.membarrier ? hl_i_register() : (uint8_t)HL_FENCE;
        gate->socket = got.socket;
        gate->region_fd = got.region_fd;
        got.socket = got.region_fd = -1;
    } else {
        hl_i_gate_release(gate);
    }
    hl_i_got_close(&got);
    return status;
}

/* hl_attach_as with nothing but a build: what this gateway calls itself, at most HL_NAME_MAX bytes, or NULL. */
HL_I_FN hl_status hl_attach(hl_gate *gate, const char *socket, const char *session, const char *token,
                            const char *build, uint32_t timeout_ms, hl_error *error) {
    const hl_claim claim = {build, NULL, NULL, NULL, 0};
    return hl_attach_as(gate, socket, session, token, &claim, timeout_ms, error);
}

/*
 * Whether haltline still holds the other end of the connection. False: it has ended or was started anew; hl_reconnect until
 * that is HL_DONE. A haltline that is frozen, but there, is connected: its lease lapses (HL_LAPSED), and it may go on.
 * One thread at a time among all calls that take the gate and not an end of it.
 */
HL_I_FN bool hl_is_connected(const hl_gate *gate) {
    char byte;
    const ssize_t got = recv(gate->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

/*
 * Connects again, after haltline was started anew: goes on in the same memory, where both sides stopped. Order threads need not
 * know and need not stop: their gate is closed, and opens when haltline renews the lease.
 *
 * Arguments and errors as hl_attach_as; HL_E_CHANGED: haltline has another configuration now, the gate stays closed for good, detach
 * and attach anew; HL_E_BUSY: another thread is in such a call. The gate stays as it was on every error.
 * Any thread.
 */
HL_I_FN hl_status hl_reconnect_as(hl_gate *gate, const char *socket, const char *session, const char *token,
                                  const hl_claim *claim, uint32_t timeout_ms, hl_error *error) {
    if (!hl_i_try_lock(&gate->busy))
        return hl_i_busy(error);
    hl_i_got got;
    hl_status status = hl_i_connect(socket, session, token, claim, timeout_ms, gate->region_fd, &got, error);
    if (status == HL_DONE) {
        struct stat page, theirs, ours;
        if (fstat(got.page_fd, &page) != 0 || fstat(got.region_fd, &theirs) != 0 || fstat(gate->region_fd, &ours) != 0)
            status = hl_i_io(error, "descriptors");
        else if (page.st_dev != gate->page_file.st_dev || page.st_ino != gate->page_file.st_ino ||
                 theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino || got.session != gate->session)
            status = hl_i_fail(error, HL_E_CHANGED, 0, "haltline has another configuration now");
        else if (!got.membarrier && gate->fencing == HL_MEMBARRIER)
            /* Threads may be on their way past a check that only membarrier(2) would see. */
            status = hl_i_fail(error, HL_E_CHANGED, 0, "haltline can no longer use membarrier(2), which this gate relies on");
    }
    if (status == HL_DONE) {
        /* The new engine sleeps by a new bell. It takes the place of the old one, at the same address: an asker rings
         * whichever is there. */
        uint64_t *words = NULL;
        size_t len = 0;
        status = hl_i_map(got.bell_fd, "bell", true, true, HL_I_BELL_WORDS, gate->bell, &words, &len, error);
    }
    if (status == HL_DONE) {
        hl_i_close(&gate->socket);
        gate->socket = got.socket;
        gate->unanswered = 0;
        got.socket = -1;
    }
    hl_i_got_close(&got);
    hl_i_unlock(&gate->busy);
    return status;
}

/* hl_reconnect_as with nothing but a build. */
HL_I_FN hl_status hl_reconnect(hl_gate *gate, const char *socket, const char *session, const char *token,
                               const char *build, uint32_t timeout_ms, hl_error *error) {
    const hl_claim claim = {build, NULL, NULL, NULL, 0};
    return hl_reconnect_as(gate, socket, session, token, &claim, timeout_ms, error);
}

/*
 * Ends the connection and gives the memory back. Every checker and the asker must have been dropped: else HL_E_BUSY, and the gate
 * stays attached. A gate that was detached is nothing but memory; hl_attach may be called with it again. One thread.
 */
HL_I_FN hl_status hl_detach(hl_gate *gate, hl_error *error) {
    const uint32_t ends = __atomic_load_n(&gate->ends, __ATOMIC_ACQUIRE);
    if (ends != 0)
        return hl_i_fail(error, HL_E_BUSY, 0, "%u checkers or askers are in use", (unsigned)ends);
    hl_i_gate_release(gate);
    return HL_DONE;
}

/* Sends the message and waits for its answer, which takes the message's place, and whose numbers are taken out. */
HL_I_FN hl_status hl_i_exchange(hl_gate *gate, char message[HL_I_HELLO_LEN + 1], uint64_t numbers[8], hl_error *error) {
    hl_status status = HL_DONE;
    if (!hl_i_try_lock(&gate->busy))
        return hl_i_busy(error);
    struct timeval limit;
    socklen_t size = sizeof limit;
    memset(&limit, 0, sizeof limit);
    (void)getsockopt(gate->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
    const uint64_t deadline =
        hl_clock() + (uint64_t)limit.tv_sec * UINT64_C(1000000000) + (uint64_t)limit.tv_usec * UINT64_C(1000);
    size_t len = 0;
    status = hl_i_send(gate->socket, message, -1, deadline, error);
    if (status == HL_DONE)
        gate->unanswered++;
    /* Answers come in order: one that was too late for the call before must not be taken for this one's. */
    while (status == HL_DONE && gate->unanswered > 0) {
        size_t fd_count = 0;
        int fds[HL_I_FDS_MAX];
        status = hl_i_receive(gate->socket, message, HL_I_HELLO_LEN + 1, &len, fds, &fd_count, deadline, error);
        while (fd_count > 0)
            (void)close(fds[--fd_count]);
        if (status == HL_DONE)
            gate->unanswered--;
    }
    hl_i_unlock(&gate->busy);
    if (status == HL_DONE)
        status = hl_i_answer(message, len, numbers, error);
    return status;
}

HL_I_FN hl_status hl_i_look_up(hl_gate *gate, uint64_t kind, const char *name, uint64_t *id, hl_error *error) {
    if (name == NULL || name[0] == 0)
        return hl_i_fail(error, HL_E_ARGUMENT, 0, "name is empty");
    char message[HL_I_HELLO_LEN + 1];
    uint64_t numbers[8] = {0};
    hl_status status = hl_i_look_up_message(message, kind, name, error);
    if (status == HL_DONE)
        status = hl_i_exchange(gate, message, numbers, error);
    if (status == HL_DONE)
        *id = numbers[0];
    return status;
}

/*
 * Passes a line of the gateway's log (HL_TEXT_LOG) or the text of a venue's reject (HL_TEXT_REJECT) to haltline's guard: a kind of
 * text that was never seen before is an alert. UTF-8; of a longer text the first HL_TEXT_MAX bytes are passed.
 * HL_E_REFUSED with HL_REFUSED_UNAVAILABLE: the guard has no room now, the text is lost; HL_E_ARGUMENT, HL_E_IO, HL_E_PROTOCOL,
 * HL_E_BUSY. Waits for the answer: any thread but one that sends orders.
 */
HL_I_FN hl_status hl_text(hl_gate *gate, unsigned source, const char *text, hl_error *error) {
    char message[HL_I_HELLO_LEN + 1];
    uint64_t numbers[8] = {0};
    hl_status status = hl_i_text_message(message, source, text, error);
    if (status == HL_DONE)
        status = hl_i_exchange(gate, message, numbers, error);
    return status;
}

/*
 * The id of the account, strategy, instrument called `name` (1 to HL_NAME_MAX bytes). Asks haltline: once, at start.
 * Ids stay what they are for as long as the gate is attached, over reconnects.
 * HL_E_REFUSED with HL_REFUSED_UNKNOWN: there is none; HL_E_ARGUMENT, HL_E_IO, HL_E_PROTOCOL, HL_E_BUSY. `id` is written only with
 * HL_DONE. Any thread.
 */
HL_I_FN hl_status hl_account(hl_gate *gate, const char *name, uint16_t *id, hl_error *error) {
    uint64_t found = 0;
    const hl_status status = hl_i_look_up(gate, HL_ACCOUNT, name, &found, error);
    if (status == HL_DONE)
        *id = (uint16_t)found;
    return status;
}
HL_I_FN hl_status hl_strategy(hl_gate *gate, const char *name, uint16_t *id, hl_error *error) {
    uint64_t found = 0;
    const hl_status status = hl_i_look_up(gate, HL_STRATEGY, name, &found, error);
    if (status == HL_DONE)
        *id = (uint16_t)found;
    return status;
}
HL_I_FN hl_status hl_instrument(hl_gate *gate, const char *name, uint32_t *id, hl_error *error) {
    uint64_t found = 0;
    const hl_status status = hl_i_look_up(gate, HL_INSTRUMENT, name, &found, error);
    if (status == HL_DONE)
        *id = (uint32_t)found;
    return status;
}

/* The account that `strategy` trades for, which its orders name; UINT16_MAX if there is no such strategy. Any thread, hot path too. */
HL_I_FN uint16_t hl_account_of(const hl_gate *gate, uint16_t strategy) { return hl_i_account_of(&gate->page, strategy); }

/* The mode of a scope now (HL_NORMAL, HL_REDUCE_ONLY, HL_HALTED), for displays and logs: `kind` is HL_FIRM (id 0), HL_ACCOUNT,
 * HL_STRATEGY, HL_INSTRUMENT or HL_SESSION. What is not on the page is halted. Never send by it: only a pass is the right to
 * send. Any thread. */
HL_I_FN uint8_t hl_mode(const hl_gate *gate, unsigned kind, uint32_t id) {
    return hl_i_page_word(&gate->page, kind, id).mode;
}

/* How often a mode changed: a cheap look (one load) whether anything has. Any thread. */
HL_I_FN uint64_t hl_changes(const hl_gate *gate) { return hl_i_acquire(&gate->page.words[HL_I_PAGE_AT_CHANGES]); }

/* ------------------------------------------------------------------------------------------------------------------ */
/* Check: observing sessions, or a look before asking */

/*
 * Makes `checker` the calling thread's end of the gate. Once per thread, not per order. HL_E_SLOTS: all slots are taken.
 * Any thread; the checker is for one thread at a time, and is given back by hl_checker_drop.
 */
HL_I_FN hl_status hl_checker_init(hl_gate *gate, hl_checker *checker, hl_error *error) {
    memset(checker, 0, sizeof *checker);
    const uint64_t owner = (uint64_t)(uint32_t)getpid() << 32 | (uint64_t)(uint32_t)syscall(SYS_gettid);
    uint64_t *const slots = hl_i_region_slots(gate);
    for (size_t at = 0; at < gate->slots; at++) {
        uint64_t *const slot = &slots[at * HL_I_SLOT_WORDS];
        uint64_t nobody = 0;
        if (!__atomic_compare_exchange_n(&slot[HL_I_SLOT_OWNER], &nobody, owner, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED))
            continue;
        /* Whoever had it before may have left it odd: it goes on from the next even number. */
        uint64_t state = hl_i_relaxed(&slot[HL_I_SLOT_STATE]);
        state += state & 1;
        hl_i_release(&slot[HL_I_SLOT_STATE], state);
        checker->slot = slot;
        checker->state = state;
        checker->page = gate->page;
        checker->fencing = gate->fencing;
        checker->gate = gate;
        (void)__atomic_fetch_add(&gate->ends, 1, __ATOMIC_ACQ_REL);
        return HL_DONE;
    }
    return hl_i_fail(error, HL_E_SLOTS, 0, "all %u slots are taken", (unsigned)gate->slots);
}

/* Gives the end back; a pass that is held is exited. Twice does no harm; any other use after it does, until hl_checker_init. */
HL_I_FN void hl_checker_drop(hl_checker *checker) {
    if (checker->slot == NULL)
        return;
    hl_i_release(&checker->slot[HL_I_SLOT_STATE], checker->state + (checker->state & 1));
    hl_i_release(&checker->slot[HL_I_SLOT_OWNER], 0);
    (void)__atomic_fetch_sub(&checker->gate->ends, 1, __ATOMIC_ACQ_REL);
    checker->slot = NULL;
}

/* Whether a pass is held. */
HL_I_HOT bool hl_holds_pass(const hl_checker *checker) { return (checker->state & 1) != 0; }

/*
 * Leaves: what was sent under the pass has been handed to the system. Call it right after send() has returned, whatever it
 * returned. Without a pass it does nothing. No system call, lock or allocation.
 */
HL_I_HOT void hl_exit(hl_checker *checker) {
    checker->state = (checker->state + 1) & ~UINT64_C(1);
    /* SYNC slot: pairs with the load in `is_held` of src/ring/slots.rs; what was done inside is done. */
    hl_i_release(&checker->slot[HL_I_SLOT_STATE], checker->state);
}

/* Goes inside. What is read from the page after this is what a kill that finds this slot outside has raised. */
HL_I_HOT void hl_i_enter(hl_checker *checker) {
    checker->state += 1;
    __atomic_store_n(&checker->slot[HL_I_SLOT_STATE], checker->state, __ATOMIC_RELAXED);
    hl_i_light(checker->fencing);
}

/*
 * As hl_admit, at a time that the caller has just read: `now_ns` is hl_clock() from BEFORE this call, and no longer ago than the
 * caller would have the lease outlast haltline. For gateways that read the clock anyway.
 */
HL_I_HOT hl_reason hl_admit_at(hl_checker *checker, uint64_t now_ns, uint16_t strategy, uint32_t instrument,
                               hl_denied *denied) {
    if (HL_I_UNLIKELY(hl_holds_pass(checker)))
        return hl_i_deny(denied, HL_HELD);
    hl_i_enter(checker);
    hl_reason reason = hl_i_check_modes(&checker->page, strategy, instrument, false, denied);
    if (HL_I_LIKELY(reason == HL_OK))
        reason = hl_i_check_lease(&checker->page, now_ns, denied);
    if (HL_I_UNLIKELY(reason != HL_OK))
        hl_exit(checker);
    return reason;
}

/*
 * A pass for one order of `strategy` in `instrument` (ids of hl_strategy and hl_instrument), if the gate is open now.
 *
 * HL_OK: the pass is held: send, then hl_exit. Else nothing is held and the order must not be sent: HL_CLOSED, HL_LAPSED, HL_RETIRED,
 * HL_UNKNOWN, HL_HELD. `denied` (or NULL) says more; with HL_OK it is not written. In reduce-only nothing passes here: whether an
 * order reduces, only haltline can say, to a session that asks.
 * The checker's thread. No system call, lock or allocation; some nanoseconds, and the clock's.
 */
HL_I_HOT hl_reason hl_admit(hl_checker *checker, uint16_t strategy, uint32_t instrument, hl_denied *denied) {
    if (HL_I_UNLIKELY(hl_holds_pass(checker)))
        return hl_i_deny(denied, HL_HELD);
    hl_i_enter(checker);
    hl_reason reason = hl_i_check_modes(&checker->page, strategy, instrument, false, denied);
    if (HL_I_LIKELY(reason == HL_OK))
        reason = hl_i_check_lease(&checker->page, hl_clock(), denied);
    if (HL_I_UNLIKELY(reason != HL_OK))
        hl_exit(checker);
    return reason;
}

/* ------------------------------------------------------------------------------------------------------------------ */
/* Ask and report */

/* An event of `kind` (HL_NEW ...) with side buy, type limit, and 0 everywhere else. */
HL_I_HOT hl_event hl_event_of(uint8_t kind) {
    hl_event event;
    memset(&event, 0, sizeof event);
    event.kind = kind;
    event.side = HL_BUY;
    event.ord_type = HL_LIMIT;
    return event;
}

/*
 * Makes `asker` the one end of the session that asks and reports; it includes a checker. Allocates some bytes for each place of
 * the lanes. Requests that a process before left unanswered are withdrawn when their verdicts come.
 * HL_E_BUSY: there is one already; HL_E_SLOTS; HL_E_DAMAGED: detach and attach anew; HL_E_MEMORY. Any thread; the asker is for
 * one thread at a time, and is given back by hl_asker_drop.
 */
HL_I_FN hl_status hl_asker_init(hl_gate *gate, hl_asker *asker, hl_error *error) {
    memset(asker, 0, sizeof *asker);
    if (!hl_i_try_lock(&gate->asker))
        return hl_i_fail(error, HL_E_BUSY, 0, "the session has an asker already");
    hl_status status = HL_DONE;
    hl_denied denied;
    if (hl_i_writer_resume(&asker->events, hl_i_region_events(gate), gate->events,
                           &gate->region[HL_I_REGION_AT_EVENT_CURSOR], &denied) != HL_OK)
        status = hl_i_fail(error, HL_E_DAMAGED, 0, "damaged lane: %s %llu", denied.what,
                           (unsigned long long)denied.found);
    if (status == HL_DONE) {
        asker->waiting = (hl_waiting *)calloc(gate->events, sizeof *asker->waiting);
        asker->instructions = (hl_instruction *)calloc(gate->verdicts, sizeof *asker->instructions);
        if (asker->waiting == NULL || asker->instructions == NULL)
            status = hl_i_fail(error, HL_E_MEMORY, 0, "no memory for %u requests", (unsigned)gate->events);
    }
    if (status == HL_DONE)
        status = hl_checker_init(gate, &asker->checker, error);
    if (status != HL_DONE) {
        free(asker->waiting);
        free(asker->instructions);
        asker->waiting = NULL;
        asker->instructions = NULL;
        hl_i_unlock(&gate->asker);
        return status;
    }
    hl_i_reader_resume(&asker->verdicts, hl_i_region_verdicts(gate), gate->verdicts,
                       &gate->region[HL_I_REGION_AT_VERDICT_CURSOR]);
    asker->answered = &gate->region[HL_I_REGION_AT_ANSWERED];
    asker->base = gate->base;
    return HL_DONE;
}

/* Gives the end back; a pass that is held is exited. What was admitted and not sent stays counted at haltline until the next asker
 * of the session polls. Twice does no harm. */
HL_I_FN void hl_asker_drop(hl_asker *asker) {
    if (asker->waiting == NULL)
        return;
    hl_gate *const gate = asker->checker.gate;
    free(asker->waiting);
    free(asker->instructions);
    asker->waiting = NULL;
    asker->instructions = NULL;
    hl_checker_drop(&asker->checker);
    hl_i_unlock(&gate->asker);
}

/* The sequence in the session's stream that haltline knows `position` by. */
HL_I_HOT uint64_t hl_seq(const hl_asker *asker, uint64_t position) { return asker->base + position; }

/* hl_exit of the pass that hl_ask or hl_pass gave. */
HL_I_HOT void hl_asker_exit(hl_asker *asker) { hl_exit(&asker->checker); }

/*
 * How many events can be reported now without HL_FULL. An observing gateway looks before it sends, so that it can report what it
 * sent. HL_OK, HL_DAMAGED. The asker's thread; no system call, lock or allocation.
 */
HL_I_FN hl_reason hl_room(hl_asker *asker, uint64_t *room, hl_denied *denied) {
    return hl_i_writer_room(&asker->events, room, denied);
}

/*
 * Reports `event` of any kind: what the venue said, a cancel that goes out, a heartbeat, an order that was sent under a checker's
 * pass. `position` (or NULL) gets its place in the stream.
 *
 * HL_OK, or it was not taken: HL_FULL (report it again; never drop a fill), HL_BAD_EVENT (kind, side or ord_type does not exist),
 * HL_DAMAGED. Never waits. The asker's thread; no lock or allocation, and a system call only when the engine sleeps and has to be
 * woken (never with haltline's engine.idle = "spin").
 */
HL_I_FN hl_reason hl_report(hl_asker *asker, const hl_event *event, uint64_t *position, hl_denied *denied) {
    uint64_t record[HL_I_RECORD_WORDS];
    hl_reason reason = hl_i_event_record(event, record, denied);
    if (reason == HL_OK)
        reason = hl_i_writer_push(&asker->events, record, denied);
    if (HL_I_UNLIKELY(reason != HL_OK))
        return reason;
    hl_i_ring(asker->checker.gate->bell);
    if (position != NULL)
        *position = asker->events.next - 1;
    return HL_OK;
}

HL_I_FN hl_reason hl_i_tell_withdrawn(hl_asker *asker, uint64_t id, hl_denied *denied) {
    hl_event event = hl_event_of(HL_WITHDRAWN);
    event.id = id;
    return hl_report(asker, &event, NULL, denied);
}

/*
 * Tells haltline that an order it admitted is not sent. hl_ask and hl_pass do so themselves.
 * HL_FULL, HL_DAMAGED: haltline could not be told and goes on counting the order. As hl_report.
 */
HL_I_FN hl_reason hl_withdraw(hl_asker *asker, const hl_answered *answered, hl_denied *denied) {
    return hl_i_tell_withdrawn(asker, answered->id, denied);
}

/*
 * Puts a request (HL_NEW or HL_REPLACE) into the lane; `position` (or NULL) gets its place in the stream. The verdict comes by hl_poll.
 * HL_OK, HL_FULL (the lane is, or as many requests as it has places wait for hl_poll), HL_DAMAGED, HL_BAD_EVENT, HL_NO_REQUEST.
 * Never waits. As hl_report.
 */
HL_I_FN hl_reason hl_submit(hl_asker *asker, const hl_event *order, uint64_t *position, hl_denied *denied) {
    if (HL_I_UNLIKELY(order->kind != HL_NEW && order->kind != HL_REPLACE))
        return hl_i_deny(denied, HL_NO_REQUEST);
    uint64_t record[HL_I_RECORD_WORDS];
    hl_waiting waiting;
    /* Before the order is in the lane: what is raised from here on makes its verdict worthless. */
    waiting.epoch = hl_i_acquire(&asker->checker.page.words[HL_I_PAGE_AT_EPOCH]);
    waiting.position = asker->events.next;
    waiting.instrument = order->instrument;
    waiting.strategy = order->strategy;
    waiting.withdrawn = false;
    hl_waiting *const place = &asker->waiting[(waiting.position - 1) & asker->events.mask];
    /* Verdicts come in order: one at or before `answered` will not come. A request that was given up needs no memory: a verdict
     * that nobody waits for is withdrawn. */
    if (HL_I_UNLIKELY(place->position > hl_i_relaxed(asker->answered) && !place->withdrawn))
        return hl_i_deny(denied, HL_FULL);
    hl_reason reason = hl_i_event_record(order, record, denied);
    if (reason == HL_OK)
        reason = hl_i_writer_push(&asker->events, record, denied);
    if (HL_I_UNLIKELY(reason != HL_OK))
        return reason;
    *place = waiting;
    hl_i_ring(asker->checker.gate->bell);
    if (position != NULL)
        *position = waiting.position;
    return HL_OK;
}

/* Keeps the instruction of `record` for hl_next_instruction. HL_OK or HL_BAD_VERDICT. */
HL_I_FN hl_reason hl_i_keep_instruction(hl_asker *asker, const uint64_t record[HL_I_RECORD_WORDS], hl_denied *denied) {
    const uint8_t scope = (uint8_t)(record[0] >> 48);
    if (scope > HL_SESSION || scope == HL_PAIR)
        return hl_i_bad_verdict(denied, "scope", scope);
    const uint32_t places = asker->checker.gate->verdicts;
    /* One that finds no room is given again, like one that is not answered. */
    if (asker->instructions_len == places)
        return HL_OK;
    hl_instruction *const kept = &asker->instructions[(asker->instructions_first + asker->instructions_len) % places];
    asker->instructions_len++;
    kept->kind = (uint8_t)record[0];
    kept->attempt = (uint8_t)(record[0] >> 8);
    kept->scope_kind = scope;
    kept->scope_index = (uint32_t)(record[1] >> 32);
    kept->id = record[4];
    kept->session = (uint16_t)record[5];
    return HL_OK;
}

/*
 * Takes the next verdict. HL_OK: `answered` has it, in the order of the requests; HL_NOTHING: none has come. HL_DAMAGED,
 * HL_BAD_VERDICT: nothing more can be asked here, detach and attach anew; HL_FULL: haltline could not be told that an order which had
 * been given up is not sent, and goes on counting it.
 * Never waits. The asker's thread; no lock, no allocation, no system call but as hl_report.
 */
HL_I_FN hl_reason hl_poll(hl_asker *asker, hl_answered *answered, hl_denied *denied) {
    for (;;) {
        uint64_t record[HL_I_RECORD_WORDS];
        hl_reason reason = hl_i_reader_pop(&asker->verdicts, record, denied);
        const bool instruction = reason == HL_OK && HL_I_IS_INSTRUCTION(record[0]);
        if (instruction)
            reason = hl_i_keep_instruction(asker, record, denied);
        else if (reason == HL_OK)
            reason = hl_i_verdict_of(record, answered, denied);
        if (reason != HL_OK)
            return reason;
        if (instruction)
            continue;
        const uint64_t position = answered->seq - asker->base;
        /* haltline died between answering and counting, and has answered again: the order may have been sent. */
        if (position <= hl_i_relaxed(asker->answered))
            continue;
        /* A process that dies between these two words never used the verdict: haltline goes on counting the order. */
        hl_i_release(asker->answered, position);
        hl_waiting *const waiting = &asker->waiting[(position - 1) & asker->events.mask];
        if (waiting->position == position && !waiting->withdrawn) {
            waiting->position = 0;
            answered->epoch = waiting->epoch;
            answered->strategy = waiting->strategy;
            answered->instrument = waiting->instrument;
            return HL_OK;
        }
        /* Given up, or asked by a process that died before it read the verdict: it is not sent, and haltline is told. */
        if (answered->admitted && (answered->kind == HL_NEW || answered->kind == HL_REPLACE)) {
            reason = hl_i_tell_withdrawn(asker, answered->id, denied);
            if (reason != HL_OK)
                return reason;
        }
    }
}

/*
 * The next thing that haltline wants done about orders that work under a halt. HL_OK: `instruction` has it; HL_NOTHING: there is
 * none now; HL_DAMAGED, HL_BAD_VERDICT: nothing more can be asked here, detach and attach anew. Look now and then, also when nothing
 * is asked.
 *
 * Of HL_DO_CANCEL, hl_report an HL_CANCEL for the order when it goes out, and what the venue says in time: an order of which
 * nothing is heard is told again. What was told for a scope that has been re-armed since is not given out.
 * Never waits. The asker's thread; no lock, no allocation, no system call.
 */
HL_I_FN hl_reason hl_next_instruction(hl_asker *asker, hl_instruction *instruction, hl_denied *denied) {
    for (;;) {
        const hl_reader *const reader = &asker->verdicts;
        const uint64_t *const words = hl_i_place(reader->places, reader->mask, reader->next);
        /* SYNC lane stamp: pairs with the store in `Writer::push`. */
        if (hl_i_acquire(&words[HL_I_STAMP]) != reader->next || !HL_I_IS_INSTRUCTION(hl_i_relaxed(&words[0])))
            break;
        uint64_t record[HL_I_RECORD_WORDS];
        hl_reason reason = hl_i_reader_pop(&asker->verdicts, record, denied);
        if (reason == HL_OK)
            reason = hl_i_keep_instruction(asker, record, denied);
        if (reason != HL_OK)
            return reason;
    }
    while (asker->instructions_len > 0) {
        *instruction = asker->instructions[asker->instructions_first];
        asker->instructions_first = (asker->instructions_first + 1) % asker->checker.gate->verdicts;
        asker->instructions_len--;
        if (hl_i_page_word(&asker->checker.page, instruction->scope_kind, instruction->scope_index).mode != HL_NORMAL)
            return HL_OK;
    }
    return HL_NOTHING;
}

/* Tells haltline that this gateway can do HL_DO_MASS_CANCEL, for as long as it is attached. As hl_report. */
HL_I_FN hl_reason hl_accept_mass_cancel(hl_asker *asker, hl_denied *denied) {
    hl_event event = hl_event_of(HL_HEARTBEAT);
    event.id = HL_I_TAKES_MASS_CANCEL;
    return hl_report(asker, &event, NULL, denied);
}

/*
 * The pass for an order that was admitted: once for each verdict of hl_poll.
 *
 * HL_OK: the pass is held: send, then hl_asker_exit. Else the order must not be sent. HL_DENIED: it was not admitted. HL_CLOSED,
 * HL_LAPSED, HL_RETIRED, HL_UNKNOWN, HL_CHANGED: the gate has closed since, and haltline was told that the order is withdrawn
 * (HL_FULL, HL_DAMAGED: it could not be told and goes on counting it). HL_HELD: exit the pass before, then call again.
 * In reduce-only an order passes that haltline found to reduce. As hl_admit.
 */
HL_I_FN hl_reason hl_pass(hl_asker *asker, const hl_answered *answered, hl_denied *denied) {
    hl_checker *const checker = &asker->checker;
    if (HL_I_UNLIKELY(!answered->admitted)) {
        if (denied != NULL)
            *denied = answered->denied;
        return HL_DENIED;
    }
    if (HL_I_UNLIKELY(hl_holds_pass(checker)))
        return hl_i_deny(denied, HL_HELD);
    hl_i_enter(checker);
    /* By the verdict, not by the epoch: a raise takes its epoch before it shows the mode. */
    const bool reduces = (answered->checks & HL_I_RISK_CHECK) == 0;
    hl_reason reason = hl_i_check_modes(&checker->page, answered->strategy, answered->instrument, reduces, denied);
    if (HL_I_LIKELY(reason == HL_OK))
        reason = hl_i_check_unchanged(&checker->page, answered->epoch, answered->strategy, answered->instrument, denied);
    if (HL_I_LIKELY(reason == HL_OK))
        reason = hl_i_check_lease(&checker->page, hl_clock(), denied);
    if (HL_I_LIKELY(reason == HL_OK))
        return HL_OK;
    hl_exit(checker);
    hl_denied untold;
    const hl_reason told = hl_withdraw(asker, answered, &untold);
    if (told != HL_OK && denied != NULL)
        *denied = untold;
    return told == HL_OK ? reason : told;
}

/* Marks a request whose verdict nobody waits for any more: when it comes, the order is withdrawn. */
HL_I_FN void hl_i_give_up(hl_asker *asker, uint64_t position) {
    hl_waiting *const waiting = &asker->waiting[(position - 1) & asker->events.mask];
    if (waiting->position == position)
        waiting->withdrawn = true;
}

/*
 * Asks for `order` (HL_NEW or HL_REPLACE), waits at most `patience_ns` ns for the verdict, and takes the pass.
 *
 * HL_OK: the pass is held: send, then hl_asker_exit. Else the order must not be sent, `denied` (or NULL) says why, and if haltline
 * had admitted it, haltline was told that it is withdrawn. Requests that were submitted before and not waited for are given up.
 * Spins, and yields the core now and then: for a thread that has nothing else to do. One that has uses hl_submit and hl_poll.
 * The asker's thread; no lock or allocation.
 */
HL_I_FN hl_reason hl_ask(hl_asker *asker, const hl_event *order, uint64_t patience_ns, hl_denied *denied) {
    if (HL_I_UNLIKELY(hl_holds_pass(&asker->checker)))
        return hl_i_deny(denied, HL_HELD);
    uint64_t position = 0;
    hl_reason reason = hl_submit(asker, order, &position, denied);
    if (reason != HL_OK)
        return reason;
    const uint64_t begin = hl_clock();
    hl_answered answered;
    for (uint32_t rounds = 1;; rounds++) {
        reason = hl_poll(asker, &answered, denied);
        if (reason == HL_OK && answered.seq == hl_seq(asker, position))
            return hl_pass(asker, &answered, denied);
        if (reason == HL_OK && answered.admitted)
            reason = hl_withdraw(asker, &answered, denied);
        if (reason == HL_NOTHING) {
            hl_i_pause();
            if (rounds % 64 != 0)
                continue;
            if (hl_clock() - begin <= patience_ns) {
                (void)sched_yield();
                continue;
            }
            hl_i_give_up(asker, position);
            return hl_i_deny(denied, HL_NO_ANSWER);
        }
        if (reason != HL_OK) {
            hl_i_give_up(asker, position);
            return reason;
        }
    }
}

HL_I_ASSERT(sizeof(hl_waiting) == 24, "what is remembered of a request is small");
HL_I_ASSERT(HL_SESSION == 5 && HL_PARENT_DONE == 19, "numbers of the wire");

#ifdef __cplusplus

/* ------------------------------------------------------------------------------------------------------------------ */
/* C++17: the same with owners. No exception is thrown; threads as for the functions behind each. */

#if __cplusplus < 201703L
#error "haltline.h: C++17 or later"
#endif

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace haltline {

/* The right to send one order while it lives: true if it is one. Let it end right after send() has returned. Must not outlive the
 * Checker or Asker that gave it. */
class [[nodiscard]] Pass {
  public:
    Pass() noexcept = default;
    explicit Pass(hl_checker *held) noexcept : held_(held) {}
    Pass(Pass &&other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
    Pass &operator=(Pass &&other) noexcept {
        if (this != &other) {
            exit();
            held_ = std::exchange(other.held_, nullptr);
        }
        return *this;
    }
    Pass(const Pass &) = delete;
    Pass &operator=(const Pass &) = delete;
    ~Pass() { exit(); }

    explicit operator bool() const noexcept { return held_ != nullptr; }
    /* Ends it before its time. */
    void exit() noexcept {
        if (held_ != nullptr)
            hl_exit(std::exchange(held_, nullptr));
    }

  private:
    hl_checker *held_ = nullptr;
};

/* `denied` as a line for people. */
inline std::string text(const hl_denied &denied) {
    char line[256];
    return hl_denied_text(&denied, line, sizeof line);
}

/* One order thread's end of the gate: hl_checker. Keeps the gate attached. */
class Checker {
  public:
    Checker(Checker &&) noexcept = default;
    Checker &operator=(Checker &&) noexcept = default;

    /* hl_admit: a pass, or none, and denied() says why. */
    Pass admit(uint16_t strategy, uint32_t instrument) noexcept {
        return Pass(hl_admit(&own_->checker, strategy, instrument, &own_->denied) == HL_OK ? &own_->checker : nullptr);
    }
    /* hl_admit_at. */
    Pass admit_at(uint64_t now_ns, uint16_t strategy, uint32_t instrument) noexcept {
        const hl_reason reason = hl_admit_at(&own_->checker, now_ns, strategy, instrument, &own_->denied);
        return Pass(reason == HL_OK ? &own_->checker : nullptr);
    }
    /* Why the last call gave no pass. */
    const hl_denied &denied() const noexcept { return own_->denied; }

  private:
    friend class Gate;
    struct Own {
        explicit Own(std::shared_ptr<hl_gate> attached) noexcept : gate(std::move(attached)) {}
        Own(const Own &) = delete;
        Own &operator=(const Own &) = delete;
        ~Own() { hl_checker_drop(&checker); }
        std::shared_ptr<hl_gate> gate;
        hl_checker checker{};
        hl_denied denied{};
    };
    explicit Checker(std::unique_ptr<Own> own) noexcept : own_(std::move(own)) {}
    std::unique_ptr<Own> own_;
};

/* The one end that asks and reports: hl_asker. Keeps the gate attached. */
class Asker {
  public:
    Asker(Asker &&) noexcept = default;
    Asker &operator=(Asker &&) noexcept = default;

    /* hl_ask. */
    Pass ask(const hl_event &order, uint64_t patience_ns) noexcept {
        return pass_if(hl_ask(&own_->asker, &order, patience_ns, &own_->denied));
    }
    /* hl_submit: the position, or nothing, and denied() says why. */
    std::optional<uint64_t> submit(const hl_event &order) noexcept {
        uint64_t position = 0;
        if (hl_submit(&own_->asker, &order, &position, &own_->denied) != HL_OK)
            return std::nullopt;
        return position;
    }
    /* hl_poll: HL_OK, and `answered` is written; HL_NOTHING; or what is wrong. */
    hl_reason poll(hl_answered &answered) noexcept { return hl_poll(&own_->asker, &answered, &own_->denied); }
    /* hl_next_instruction: nothing if there is none; after damage denied() says so, and poll says it again. */
    std::optional<hl_instruction> instruction() noexcept {
        hl_instruction told{};
        if (hl_next_instruction(&own_->asker, &told, &own_->denied) != HL_OK)
            return std::nullopt;
        return told;
    }
    /* hl_accept_mass_cancel. */
    hl_reason accept_mass_cancel() noexcept { return hl_accept_mass_cancel(&own_->asker, &own_->denied); }
    /* hl_pass. */
    Pass pass(const hl_answered &answered) noexcept {
        return pass_if(hl_pass(&own_->asker, &answered, &own_->denied));
    }
    /* hl_withdraw. */
    hl_reason withdraw(const hl_answered &answered) noexcept {
        return hl_withdraw(&own_->asker, &answered, &own_->denied);
    }
    /* hl_report. */
    hl_reason report(const hl_event &event) noexcept { return hl_report(&own_->asker, &event, nullptr, &own_->denied); }
    /* hl_room; 0 if the lane is damaged. */
    uint64_t room() noexcept {
        uint64_t room = 0;
        return hl_room(&own_->asker, &room, &own_->denied) == HL_OK ? room : 0;
    }
    /* hl_admit: the check without the question. */
    Pass admit(uint16_t strategy, uint32_t instrument) noexcept {
        return pass_if(hl_admit(&own_->asker.checker, strategy, instrument, &own_->denied));
    }
    /* hl_seq. */
    uint64_t seq(uint64_t position) const noexcept { return hl_seq(&own_->asker, position); }
    /* Why the last call gave no pass, or did not end with HL_OK. */
    const hl_denied &denied() const noexcept { return own_->denied; }

  private:
    friend class Gate;
    struct Own {
        explicit Own(std::shared_ptr<hl_gate> attached) noexcept : gate(std::move(attached)) {}
        Own(const Own &) = delete;
        Own &operator=(const Own &) = delete;
        ~Own() { hl_asker_drop(&asker); }
        std::shared_ptr<hl_gate> gate;
        hl_asker asker{};
        hl_denied denied{};
    };
    explicit Asker(std::unique_ptr<Own> own) noexcept : own_(std::move(own)) {}
    Pass pass_if(hl_reason reason) noexcept { return Pass(reason == HL_OK ? &own_->asker.checker : nullptr); }
    std::unique_ptr<Own> own_;
};

/* An attached session: hl_gate. Copies are the same attachment, which ends with the last of them and of its checkers and asker. */
class Gate {
  public:
    /* hl_attach; nothing, and `error` says why. */
    static std::optional<Gate> attach(const std::string &socket, const std::string &session, const std::string &token,
                                      const std::string &build, uint32_t timeout_ms, hl_error &error) {
        return attach_as(socket, session, token, hl_claim{build.c_str(), nullptr, nullptr, nullptr, 0}, timeout_ms, error);
    }
    /* hl_attach_as; nothing, and `error` says why. */
    static std::optional<Gate> attach_as(const std::string &socket, const std::string &session, const std::string &token,
                                         const hl_claim &claim, uint32_t timeout_ms, hl_error &error) {
        auto gate = std::make_unique<hl_gate>();
        if (hl_attach_as(gate.get(), socket.c_str(), session.c_str(), token.c_str(), &claim, timeout_ms, &error) !=
            HL_DONE)
            return std::nullopt;
        return Gate(std::shared_ptr<hl_gate>(gate.release(), [](hl_gate *last) {
            (void)hl_detach(last, nullptr);
            delete last;
        }));
    }
    /* hl_reconnect. */
    hl_status reconnect(const std::string &socket, const std::string &session, const std::string &token,
                        const std::string &build, uint32_t timeout_ms, hl_error &error) {
        return hl_reconnect(gate_.get(), socket.c_str(), session.c_str(), token.c_str(), build.c_str(), timeout_ms,
                            &error);
    }
    /* hl_reconnect_as. */
    hl_status reconnect_as(const std::string &socket, const std::string &session, const std::string &token,
                           const hl_claim &claim, uint32_t timeout_ms, hl_error &error) {
        return hl_reconnect_as(gate_.get(), socket.c_str(), session.c_str(), token.c_str(), &claim, timeout_ms, &error);
    }
    /* hl_is_connected. */
    bool is_connected() const noexcept { return hl_is_connected(gate_.get()); }

    /* hl_account, hl_strategy, hl_instrument; nothing, and `error` says why. */
    std::optional<uint16_t> account(const std::string &name, hl_error &error) {
        uint16_t id = 0;
        return hl_account(gate_.get(), name.c_str(), &id, &error) == HL_DONE ? std::optional<uint16_t>(id) : std::nullopt;
    }
    std::optional<uint16_t> strategy(const std::string &name, hl_error &error) {
        uint16_t id = 0;
        return hl_strategy(gate_.get(), name.c_str(), &id, &error) == HL_DONE ? std::optional<uint16_t>(id) : std::nullopt;
    }
    std::optional<uint32_t> instrument(const std::string &name, hl_error &error) {
        uint32_t id = 0;
        return hl_instrument(gate_.get(), name.c_str(), &id, &error) == HL_DONE ? std::optional<uint32_t>(id)
                                                                               : std::nullopt;
    }
    /* hl_account_of. */
    uint16_t account_of(uint16_t strategy) const noexcept { return hl_account_of(gate_.get(), strategy); }

    /* hl_checker_init; nothing, and `error` says why. */
    std::optional<Checker> checker(hl_error &error) {
        auto own = std::make_unique<Checker::Own>(gate_);
        if (hl_checker_init(gate_.get(), &own->checker, &error) != HL_DONE)
            return std::nullopt;
        return Checker(std::move(own));
    }
    /* hl_asker_init; nothing, and `error` says why. */
    std::optional<Asker> asker(hl_error &error) {
        auto own = std::make_unique<Asker::Own>(gate_);
        if (hl_asker_init(gate_.get(), &own->asker, &error) != HL_DONE)
            return std::nullopt;
        return Asker(std::move(own));
    }

    /* HL_KIND_ASK or HL_KIND_OBSERVE. */
    uint8_t kind() const noexcept { return gate_->kind; }
    /* The C object behind it, for the other functions of this header. */
    hl_gate *c() const noexcept { return gate_.get(); }

  private:
    explicit Gate(std::shared_ptr<hl_gate> gate) noexcept : gate_(std::move(gate)) {}
    std::shared_ptr<hl_gate> gate_;
};

} // namespace haltline
#endif /* __cplusplus */

#endif /* HALTLINE_H */
