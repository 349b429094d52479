/* One end of a lane in a file: `lane write|read FILE PLACES COUNT`. Compiles as C and as C++.
 *
 * The file holds the cursor in its first word and the places from word 512 on. The record at position p is made of p, so a
 * writer that was killed goes on where it was. The writer prints how often the lane was full, the reader how often it was empty. */
#include "haltline.h"

static void record_of(uint64_t p, uint64_t record[8]) {
    for (uint64_t i = 0; i < 8; i++)
        record[i] = (p + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15);
    record[HL_I_STAMP] = p;
    record[0] &= ~HL_I_CHECK_0;
    record[1] &= ~HL_I_CHECK_1;
}

/* Waits so closely behind the other end that what is a store too early is seen, and yields the core now and then. */
static void pause_at(uint64_t waited) {
    if (waited % 256 == 0)
        (void)sched_yield();
    else
        hl_i_pause();
}

static int fail(const char *what, const hl_denied *denied) {
    (void)fprintf(stderr, "%s: %s %llu at %llu\n", what, denied->what, (unsigned long long)denied->found,
                  (unsigned long long)denied->position);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    const uint64_t places = strtoull(argv[3], NULL, 10), count = strtoull(argv[4], NULL, 10);
    uint64_t *words = NULL, waited = 0;
    size_t len = 0;
    hl_error error;
    hl_denied denied;
    const int fd = open(argv[2], O_RDWR | O_CLOEXEC);
    if (fd < 0 || hl_i_map(fd, "lane", false, true, 0, NULL, &words, &len, &error) != HL_DONE)
        return 3;
    if (strcmp(argv[1], "write") == 0) {
        hl_writer writer;
        if (hl_i_writer_resume(&writer, words + 512, places, words, &denied) != HL_OK)
            return fail("resume", &denied);
        while (writer.next <= count) {
            uint64_t record[8];
            record_of(writer.next, record);
            const hl_reason reason = hl_i_writer_push(&writer, record, &denied);
            if (reason == HL_FULL) {
                pause_at(++waited);
            } else if (reason != HL_OK) {
                return fail("push", &denied);
            }
        }
    } else {
        hl_reader reader;
        hl_i_reader_resume(&reader, words + 512, places, words);
        while (reader.next <= count) {
            uint64_t record[8], expected[8];
            record_of(reader.next, expected);
            const hl_reason reason = hl_i_reader_pop(&reader, record, &denied);
            if (reason == HL_NOTHING) {
                pause_at(++waited);
                continue;
            }
            if (reason != HL_OK)
                return fail("pop", &denied);
            record[0] &= ~HL_I_CHECK_0;
            record[1] &= ~HL_I_CHECK_1;
            if (memcmp(record, expected, sizeof record) != 0) {
                (void)fprintf(stderr, "record %llu is not what was written\n", (unsigned long long)expected[HL_I_STAMP]);
                return 1;
            }
        }
    }
    (void)printf("%llu\n", (unsigned long long)waited);
    return 0;
}
