/* Answers lines on stdin with lines on stdout, so that the Rust side can compare. Compiles as C and as C++.
 *
 *   check W0 … W7            → the check of the record
 *   event KIND SIDE TYPE ACCOUNT STRATEGY INSTRUMENT SENT ID REF QTY PX → its eight words, or `bad FIELD VALUE`
 *   verdict W0 … W7          → its fields, or `bad FIELD VALUE`
 *   attach SESSION TOKEN BUILD, lookup KIND NAME, claim WHAT NAME VALUE, text SOURCE TEXT → the message as hex
 *   answer HEX               → `done` and eight numbers, or status, refused and text
 * Numbers are decimal. */
#include "haltline.h"

static void words(const char *line, uint64_t out[8]) {
    char *at = (char *)(uintptr_t)line;
    for (int i = 0; i < 8; i++)
        out[i] = (uint64_t)strtoull(at, &at, 10);
}

static void show_hex(const char message[HL_I_HELLO_LEN]) {
    for (int i = 0; i < HL_I_HELLO_LEN; i++)
        (void)printf("%02x", (unsigned)(unsigned char)message[i]);
    (void)printf("\n");
}

static void show_bad(const hl_denied *denied) {
    (void)printf("bad %s %llu\n", denied->what, (unsigned long long)denied->found);
}

int main(void) {
    static char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *const rest = strchr(line, ' ');
        uint64_t w[8];
        hl_denied denied;
        char message[HL_I_HELLO_LEN + 1];
        hl_error error;
        line[strcspn(line, "\n")] = 0;
        if (rest == NULL)
            return 2;
        *rest = 0;
        if (strcmp(line, "check") == 0) {
            words(rest + 1, w);
            (void)printf("%lu\n", (unsigned long)hl_i_check_of(w));
        } else if (strcmp(line, "event") == 0) {
            unsigned long long n[9];
            long long qty, px;
            if (sscanf(rest + 1, "%llu %llu %llu %llu %llu %llu %llu %llu %llu %lld %lld", &n[0], &n[1], &n[2], &n[3],
                       &n[4], &n[5], &n[6], &n[7], &n[8], &qty, &px) != 11)
                return 2;
            hl_event event = hl_event_of((uint8_t)n[0]);
            event.side = (uint8_t)n[1];
            event.ord_type = (uint8_t)n[2];
            event.account = (uint16_t)n[3];
            event.strategy = (uint16_t)n[4];
            event.instrument = (uint32_t)n[5];
            event.sent_at = n[6];
            event.id = n[7];
            event.ref_id = n[8];
            event.qty = qty;
            event.px = px;
            if (hl_i_event_record(&event, w, &denied) != HL_OK) {
                show_bad(&denied);
                continue;
            }
            for (int i = 0; i < 8; i++)
                (void)printf("%llu%s", (unsigned long long)w[i], i == 7 ? "\n" : " ");
        } else if (strcmp(line, "verdict") == 0) {
            hl_answered a;
            words(rest + 1, w);
            if (hl_i_verdict_of(w, &a, &denied) != HL_OK) {
                show_bad(&denied);
                continue;
            }
            const hl_denied *const d = &a.denied;
            (void)printf("%llu %llu %u %s %u %u %u %u %lu %lld %lld %llu\n", (unsigned long long)a.seq,
                         (unsigned long long)a.id, (unsigned)a.kind, a.admitted ? "admitted" : "denied",
                         (unsigned)d->rule, (unsigned)d->why, (unsigned)d->scope_kind, (unsigned)d->scope_strategy,
                         (unsigned long)d->scope_index, (long long)d->observed, (long long)d->limit,
                         (unsigned long long)a.checks);
        } else if (strcmp(line, "attach") == 0) {
            const char *const session = strtok(rest + 1, " ");
            const char *const token = strtok(NULL, " ");
            const char *const build = strtok(NULL, " ");
            if (hl_i_attach_message(message, session, token, build, &error) != HL_DONE)
                (void)printf("%s\n", error.text);
            else
                show_hex(message);
        } else if (strcmp(line, "lookup") == 0) {
            const char *const kind = strtok(rest + 1, " ");
            const char *const name = strtok(NULL, " ");
            if (hl_i_look_up_message(message, strtoull(kind, NULL, 10), name, &error) != HL_DONE)
                (void)printf("%s\n", error.text);
            else
                show_hex(message);
        } else if (strcmp(line, "claim") == 0) {
            const char *const what = strtok(rest + 1, " ");
            const char *const name = strtok(NULL, " ");
            const char *const value = strtok(NULL, " ");
            const char *const flag = strcmp(name, "-") == 0 ? NULL : name;
            if (hl_i_claim_message(message, strtoull(what, NULL, 10), flag, value, &error) != HL_DONE)
                (void)printf("%s\n", error.text);
            else
                show_hex(message);
        } else if (strcmp(line, "text") == 0) {
            const char *const source = strtok(rest + 1, " ");
            const char *const text = strtok(NULL, "");
            if (hl_i_text_message(message, strtoull(source, NULL, 10), text, &error) != HL_DONE)
                (void)printf("%s\n", error.text);
            else
                show_hex(message);
        } else if (strcmp(line, "answer") == 0) {
            const size_t len = strlen(rest + 1) / 2;
            for (size_t i = 0; i < len && i < sizeof message; i++) {
                unsigned byte;
                if (sscanf(rest + 1 + 2 * i, "%2x", &byte) != 1)
                    return 2;
                message[i] = (char)(unsigned char)byte;
            }
            if (hl_i_answer(message, len, w, &error) != HL_DONE) {
                (void)printf("%d %u %s\n", (int)error.status, (unsigned)error.refused, error.text);
                continue;
            }
            (void)printf("done");
            for (int i = 0; i < 8; i++)
                (void)printf(" %llu", (unsigned long long)w[i]);
            (void)printf("\n");
        } else {
            return 2;
        }
    }
    return 0;
}
