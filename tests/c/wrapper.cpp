// The C++ wrapper: `wrapper SOCKET SESSION TOKEN STRATEGY INSTRUMENT`, against a haltline that admits order 1 and denies
// order 2. Prints what it saw, a line each.
#include "haltline.h"

#include <iostream>
#include <thread>
#include <type_traits>

static_assert(!std::is_copy_constructible_v<haltline::Pass> && std::is_nothrow_move_constructible_v<haltline::Pass>);
static_assert(!std::is_copy_constructible_v<haltline::Checker> && std::is_move_constructible_v<haltline::Checker>);
static_assert(!std::is_copy_constructible_v<haltline::Asker> && std::is_move_constructible_v<haltline::Asker>);
static_assert(std::is_copy_constructible_v<haltline::Gate>);

static haltline::Pass through(haltline::Pass pass) { return pass; }

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    hl_error error{};
    if (haltline::Gate::attach("/nowhere", argv[2], argv[3], "wrapper", 100, error))
        return 3;
    std::cout << "nowhere: " << error.status << "\n";
    std::optional<haltline::Checker> checker;
    std::optional<haltline::Asker> asker;
    uint16_t strategy = 0;
    uint32_t instrument = 0;
    hl_gate *inside = nullptr;
    {
        auto gate = haltline::Gate::attach(argv[1], argv[2], argv[3], "wrapper", 60000, error);
        if (!gate) {
            std::cout << error.text << "\n";
            return 4;
        }
        strategy = gate->strategy(argv[4], error).value();
        instrument = gate->instrument(argv[5], error).value();
        if (gate->strategy("nobody", error))
            return 5;
        std::cout << "nobody: " << error.refused << "\n";
        checker = gate->checker(error);
        asker = gate->asker(error);
        std::cout << "second asker: " << (gate->asker(error) ? "given" : "refused") << "\n";
        inside = gate->c();
    }
    // The gate is gone, what was made of it lives.
    std::cout << "connected: " << hl_is_connected(inside) << ", ends: " << inside->ends << "\n";
    {
        haltline::Pass pass = through(checker->admit(strategy, instrument));
        std::cout << "pass: " << bool(pass) << "\n";
        const haltline::Pass again = checker->admit(strategy, instrument);
        std::cout << "again: " << bool(again) << ", " << haltline::text(checker->denied()) << "\n";
        haltline::Checker moved = std::move(*checker);
        checker = std::move(moved);
    }
    const uint64_t *const state = inside->region + HL_I_REGION_AT_BODY;
    std::cout << "after the pass: " << (*state % 2 == 0 ? "outside" : "inside") << "\n";
    std::thread([&] {
        const haltline::Pass pass = checker->admit(strategy, instrument);
        std::cout << "in a thread: " << bool(pass) << ", " << (*state % 2 == 0 ? "outside" : "inside") << "\n";
    }).join();
    hl_event order = hl_event_of(HL_NEW);
    order.strategy = strategy;
    order.account = hl_account_of(inside, strategy);
    order.instrument = instrument;
    order.qty = 1;
    order.px = 1;
    const uint64_t patience_ns = 20000000000;
    for (order.id = 1; order.id <= 2; order.id++) {
        haltline::Pass pass = asker->ask(order, patience_ns);
        if (pass)
            std::cout << "order " << order.id << ": pass\n";
        else
            std::cout << "order " << order.id << ": " << haltline::text(asker->denied()) << "\n";
    }
    asker.reset();
    checker.reset();
    return 0;
}
