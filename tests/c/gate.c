/* A gate on strings: takes a command a line on stdin, answers a line on stdout. Compiles as C and as C++. */
#include "haltline.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static hl_gate gate;
static hl_checker checker;
static hl_asker asker;
static hl_error error;
static hl_denied denied;
static hl_answered answered;

static void show_status(hl_status status) {
    if (status == HL_DONE)
        (void)printf("done\n");
    else
        (void)printf("error %d %u %s\n", (int)status, (unsigned)error.refused, error.text);
}

static void show_reason(hl_reason reason, const char *ok) {
    char line[256];
    if (reason == HL_OK)
        (void)printf("%s\n", ok);
    else if (reason == HL_NOTHING)
        (void)printf("nothing\n");
    else
        (void)printf("%d %s\n", (int)denied.reason, hl_denied_text(&denied, line, sizeof line));
}

/* KIND STRATEGY INSTRUMENT SIDE ID REF QTY PX [MORE] */
static hl_event event_of(const char *text, unsigned long long *more) {
    unsigned kind = 0, strategy = 0, instrument = 0, side = 0;
    unsigned long long id = 0, ref_id = 0;
    long long qty = 0, px = 0;
    *more = 0;
    (void)sscanf(text, "%u %u %u %u %llu %llu %lld %lld %llu", &kind, &strategy, &instrument, &side, &id, &ref_id, &qty,
                 &px, more);
    hl_event event = hl_event_of((uint8_t)kind);
    event.side = (uint8_t)side;
    event.strategy = (uint16_t)strategy;
    event.account = hl_account_of(&gate, event.strategy);
    event.instrument = instrument;
    event.id = id;
    event.ref_id = ref_id;
    event.qty = qty;
    event.px = px;
    return event;
}

/* From here on any system call but write and exit ends the process. */
static bool forbid_system_calls(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program;
    program.len = sizeof steps / sizeof steps[0];
    program.filter = steps;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Passes, requests and reports without a system call. */
static void quiet(uint16_t strategy, uint32_t instrument, unsigned rounds) {
    unsigned passes = 0, submitted = 0, verdicts = 0;
    /* The first call may resolve symbols. */
    (void)hl_clock();
    if (!forbid_system_calls()) {
        (void)printf("no filter here\n");
        return;
    }
    const uint64_t begin = hl_clock(), patience_ns = 20000000000;
    for (unsigned i = 0; i < rounds || (verdicts == 0 && hl_clock() - begin < patience_ns); i++) {
        if (hl_admit(&checker, strategy, instrument, &denied) == HL_OK) {
            passes++;
            hl_exit(&checker);
        }
        hl_event event = hl_event_of(i % 2 == 0 ? HL_NEW : HL_ACK);
        event.id = i + 1;
        uint64_t room = 0;
        if (hl_room(&asker, &room, &denied) == HL_OK && room > 0) {
            if (event.kind == HL_NEW)
                submitted += hl_submit(&asker, &event, NULL, &denied) == HL_OK;
            else
                (void)hl_report(&asker, &event, NULL, &denied);
        }
        if (hl_poll(&asker, &answered, &denied) == HL_OK) {
            verdicts++;
            if (hl_pass(&asker, &answered, &denied) == HL_OK)
                hl_asker_exit(&asker);
        }
    }
    char line[96];
    const int len = snprintf(line, sizeof line, "%u passes, %u submitted, %u verdicts\n", passes, submitted, verdicts);
    if (write(1, line, (size_t)len) != len)
        syscall(SYS_exit, 8);
    syscall(SYS_exit, 0);
}

/* Passes for as long as word 2 of the file is 0, with the time inside the pass in word 0, the count in word 1. */
static void race(uint16_t strategy, uint32_t instrument, const char *path) {
    uint64_t *words = NULL, passes = 0, denials = 0;
    size_t len = 0;
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || hl_i_map(fd, "race", false, true, 0, NULL, &words, &len, &error) != HL_DONE) {
        (void)printf("error\n");
        return;
    }
    while (__atomic_load_n(&words[2], __ATOMIC_ACQUIRE) == 0) {
        if (hl_admit(&checker, strategy, instrument, &denied) == HL_OK) {
            passes++;
            /* The "send", which takes its time, and must not be seen to happen after the confirmation. */
            for (unsigned i = 0; i < 4; i++)
                hl_i_pause();
            __atomic_store_n(&words[1], passes, __ATOMIC_RELAXED);
            __atomic_store_n(&words[0], hl_clock(), __ATOMIC_RELAXED);
            hl_exit(&checker);
        } else {
            denials++;
        }
    }
    (void)printf("%llu passes, %llu denials\n", (unsigned long long)passes, (unsigned long long)denials);
}

/* How long haltline may take to answer, in ms. */
static uint32_t patience_ms = 120000;

int main(void) {
    static char line[1024];
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin) != NULL) {
        char verb[32] = "", a[512] = "", b[128] = "", c[128] = "";
        line[strcspn(line, "\n")] = 0;
        (void)sscanf(line, "%31s %511s %127s %127s", verb, a, b, c);
        const char *const rest = strchr(line, ' ') == NULL ? "" : strchr(line, ' ') + 1;
        const uint16_t strategy = (uint16_t)strtoul(a, NULL, 10);
        const uint32_t instrument = (uint32_t)strtoul(b, NULL, 10);
        unsigned long long more = 0;
        uint16_t id16 = 0;
        uint32_t id32 = 0;
        if (strcmp(verb, "attach") == 0) {
            const hl_status status = hl_attach(&gate, a, b, c, "puppet 1.0", patience_ms, &error);
            if (status == HL_DONE)
                (void)printf("done session %u %s %s\n", (unsigned)gate.session,
                             gate.kind == HL_KIND_ASK ? "asks" : "observes",
                             gate.fencing == HL_FENCE ? "fences" : "membarrier");
            else
                show_status(status);
        } else if (strcmp(verb, "reconnect") == 0) {
            show_status(hl_reconnect(&gate, a, b, c, "puppet 1.0", patience_ms, &error));
        } else if (strcmp(verb, "patience") == 0) {
            patience_ms = (uint32_t)strtoul(a, NULL, 10);
            (void)printf("done\n");
        } else if (strcmp(verb, "detach") == 0) {
            show_status(hl_detach(&gate, &error));
        } else if (strcmp(verb, "connected") == 0) {
            (void)printf("%s\n", hl_is_connected(&gate) ? "yes" : "no");
        } else if (strcmp(verb, "fence") == 0) {
            gate.fencing = HL_FENCE;
            (void)printf("done\n");
        } else if (strcmp(verb, "account") == 0) {
            const hl_status status = hl_account(&gate, a, &id16, &error);
            if (status == HL_DONE)
                (void)printf("%u\n", (unsigned)id16);
            else
                show_status(status);
        } else if (strcmp(verb, "strategy") == 0) {
            const hl_status status = hl_strategy(&gate, a, &id16, &error);
            if (status == HL_DONE)
                (void)printf("%u\n", (unsigned)id16);
            else
                show_status(status);
        } else if (strcmp(verb, "instrument") == 0) {
            const hl_status status = hl_instrument(&gate, a, &id32, &error);
            if (status == HL_DONE)
                (void)printf("%lu\n", (unsigned long)id32);
            else
                show_status(status);
        } else if (strcmp(verb, "text") == 0) {
            show_status(hl_text(&gate, (unsigned)strtoul(a, NULL, 10), b, &error));
        } else if (strcmp(verb, "mode") == 0) {
            (void)printf("%s\n", hl_mode_name(hl_mode(&gate, strategy, instrument)));
        } else if (strcmp(verb, "checker") == 0) {
            show_status(hl_checker_init(&gate, &checker, &error));
        } else if (strcmp(verb, "drop_checker") == 0) {
            hl_checker_drop(&checker);
            (void)printf("done\n");
        } else if (strcmp(verb, "admit") == 0) {
            show_reason(hl_admit(&checker, strategy, instrument, &denied), "pass");
        } else if (strcmp(verb, "exit") == 0) {
            hl_exit(&checker);
            (void)printf("done\n");
        } else if (strcmp(verb, "asker") == 0) {
            show_status(hl_asker_init(&gate, &asker, &error));
        } else if (strcmp(verb, "drop_asker") == 0) {
            hl_asker_drop(&asker);
            (void)printf("done\n");
        } else if (strcmp(verb, "ask") == 0) {
            const hl_event order = event_of(rest, &more);
            show_reason(hl_ask(&asker, &order, more * 1000000, &denied), "pass");
        } else if (strcmp(verb, "asker_exit") == 0) {
            hl_asker_exit(&asker);
            (void)printf("done\n");
        } else if (strcmp(verb, "submit") == 0) {
            const hl_event order = event_of(rest, &more);
            uint64_t position = 0;
            const hl_reason reason = hl_submit(&asker, &order, &position, &denied);
            if (reason == HL_OK)
                (void)printf("position %llu\n", (unsigned long long)position);
            else
                show_reason(reason, "");
        } else if (strcmp(verb, "poll") == 0) {
            const hl_reason reason = hl_poll(&asker, &answered, &denied);
            if (reason == HL_OK)
                (void)printf("%llu %s\n", (unsigned long long)answered.id, answered.admitted ? "admitted" : "denied");
            else
                show_reason(reason, "");
        } else if (strcmp(verb, "pass") == 0) {
            show_reason(hl_pass(&asker, &answered, &denied), "pass");
        } else if (strcmp(verb, "withdraw") == 0) {
            show_reason(hl_withdraw(&asker, &answered, &denied), "done");
        } else if (strcmp(verb, "report") == 0) {
            const hl_event event = event_of(rest, &more);
            show_reason(hl_report(&asker, &event, NULL, &denied), "done");
        } else if (strcmp(verb, "room") == 0) {
            uint64_t room = 0;
            if (hl_room(&asker, &room, &denied) == HL_OK)
                (void)printf("%llu\n", (unsigned long long)room);
            else
                show_reason(denied.reason, "");
        } else if (strcmp(verb, "quiet") == 0) {
            quiet(strategy, instrument, (unsigned)strtoul(c, NULL, 10));
        } else if (strcmp(verb, "race") == 0) {
            race(strategy, instrument, c);
        } else if (strcmp(verb, "fork") == 0) {
            const pid_t child = fork();
            if (child == 0) {
                (void)hl_admit(&checker, strategy, instrument, &denied);
                _exit(0);
            }
            int status = 0;
            (void)waitpid(child, &status, 0);
            if (WIFSIGNALED(status))
                (void)printf("signal %d\n", WTERMSIG(status));
            else
                (void)printf("lived\n");
        } else {
            (void)printf("unknown command %s\n", verb);
        }
    }
    return 0;
}
