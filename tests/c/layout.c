/* Prints what the header knows of the layout, one `name value` a line. Compiles as C and as C++. */
#include "haltline.h"

#define SHOW(name) (void)printf("%s %llu\n", #name, (unsigned long long)(name))

int main(void) {
    SHOW(HL_I_PAGE_MAGIC);
    SHOW(HL_I_PAGE_VERSION);
    SHOW(HL_I_PAGE_AT_VERSION);
    SHOW(HL_I_PAGE_AT_ACCOUNTS);
    SHOW(HL_I_PAGE_AT_INSTRUMENTS);
    SHOW(HL_I_PAGE_AT_STATE);
    SHOW(HL_I_PAGE_AT_RAISED);
    SHOW(HL_I_PAGE_AT_EPOCH);
    SHOW(HL_I_PAGE_AT_CHANGES);
    SHOW(HL_I_PAGE_AT_LEASE);
    SHOW(HL_I_PAGE_AT_WORDS);
    SHOW(HL_I_PAGE_IN_SERVICE);
    SHOW(HL_I_REGION_MAGIC);
    SHOW(HL_I_REGION_VERSION);
    SHOW(HL_I_REGION_AT_EVENT_CURSOR);
    SHOW(HL_I_REGION_AT_VERDICT_CURSOR);
    SHOW(HL_I_REGION_AT_ANSWERED);
    SHOW(HL_I_REGION_AT_BODY);
    SHOW(HL_I_MAX_PLACES);
    SHOW(HL_I_MAX_SLOTS);
    SHOW(HL_I_SLOT_WORDS);
    SHOW(HL_I_SLOT_STATE);
    SHOW(HL_I_SLOT_OWNER);
    SHOW(HL_I_RECORD_WORDS);
    SHOW(HL_I_RISK_CHECK);
    SHOW(HL_I_STAMP);
    SHOW(HL_I_BELL_WORDS);
    SHOW(HL_I_HELLO_MAGIC);
    SHOW(HL_I_HELLO_VERSION);
    SHOW(HL_I_HELLO_LEN);
    SHOW(HL_NAME_MAX);
    SHOW(HL_TOKEN_MAX);
    SHOW(HL_RULES);
    SHOW(HL_WHYS);
    SHOW(HL_NEW);
    SHOW(HL_REPLACE);
    SHOW(HL_CANCEL);
    SHOW(HL_ACK);
    SHOW(HL_REPLACED);
    SHOW(HL_CANCELED);
    SHOW(HL_EXPIRED);
    SHOW(HL_REJECTED);
    SHOW(HL_CANCEL_REJECTED);
    SHOW(HL_FILL);
    SHOW(HL_BUST);
    SHOW(HL_CORRECT);
    SHOW(HL_MARK);
    SHOW(HL_FX);
    SHOW(HL_HEARTBEAT);
    SHOW(HL_WITHDRAWN);
    SHOW(HL_PARENT_NEW);
    SHOW(HL_PARENT_REPLACE);
    SHOW(HL_PARENT_DONE);
    SHOW(HL_BUY);
    SHOW(HL_SELL);
    SHOW(HL_LIMIT);
    SHOW(HL_MARKET);
    SHOW(HL_STOP);
    SHOW(HL_STOP_LIMIT);
    SHOW(HL_FIRM);
    SHOW(HL_ACCOUNT);
    SHOW(HL_STRATEGY);
    SHOW(HL_PAIR);
    SHOW(HL_INSTRUMENT);
    SHOW(HL_SESSION);
    SHOW(HL_NORMAL);
    SHOW(HL_REDUCE_ONLY);
    SHOW(HL_HALTED);
    SHOW(HL_KIND_ASK);
    SHOW(HL_KIND_OBSERVE);
    SHOW(HL_REFUSED_MALFORMED);
    SHOW(HL_REFUSED_NOT_ALLOWED);
    SHOW(HL_REFUSED_IN_USE);
    SHOW(HL_REFUSED_UNKNOWN);
    SHOW(HL_REFUSED_BAD_REGION);
    SHOW(HL_REFUSED_UNAVAILABLE);
    /* One more than there are: "?" is the end. */
    for (unsigned i = 0; i <= HL_RULES; i++)
        (void)printf("rule:%s %u\n", hl_rule_name(i), i);
    for (unsigned i = 0; i <= HL_WHYS; i++)
        (void)printf("why:%s %u\n", hl_why_name(i), i);
    for (unsigned i = 0; i <= HL_HALTED; i++)
        (void)printf("mode:%s %u\n", hl_mode_name(i), i);
    for (unsigned i = 0; i <= HL_SESSION; i++)
        (void)printf("scope:%s %u\n", hl_scope_name(i), i);
    return 0;
}
