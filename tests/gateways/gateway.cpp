// A small order gateway in C++17: floods a venue with orders, each of which passes haltline's gate.
//
// gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT, for a session that asks or one that observes. VENUE is
// ADDRESS:PORT. Runs until it is ended or the venue closes the connection, and prints a line when its gate opens, when it closes,
// and when a thousand orders in a row were denied.
//
//     c++ -std=c++17 -O2 -I src/gate tests/gateways/gateway.cpp -o gateway
#include "haltline.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

namespace {

// What waits for longer is given up; nobody but the gate decides how late an order may be.
constexpr uint64_t patience_ns = 10'000'000'000;
constexpr uint32_t timeout_ms = 1000;
// The first attach: haltline may read this executable before it answers.
constexpr uint32_t attach_timeout_ms = 60'000;
constexpr const char *build = "example gateway (C++)";
// Orders that the venue may owe an answer.
constexpr unsigned most_outstanding = 256;
// Places of the event lane that one order needs at most: itself, its ack, its end.
constexpr uint64_t events_per_order = 3;

[[noreturn]] void die(const std::string &what) {
    std::cerr << what << "\n";
    std::exit(1);
}

// A connection to the venue.
class Venue {
  public:
    explicit Venue(const std::string &where) {
        const size_t colon = where.find(':');
        sockaddr_in address{};
        address.sin_family = AF_INET;
        if (colon == std::string::npos || inet_pton(AF_INET, where.substr(0, colon).c_str(), &address.sin_addr) != 1)
            die(where + " must be ADDRESS:PORT");
        address.sin_port = htons(static_cast<uint16_t>(std::stoul(where.substr(colon + 1))));
        fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        if (fd_ < 0 || ::connect(fd_, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
            die(where + ": " + strerror(errno));
        (void)::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    Venue(const Venue &) = delete;
    Venue &operator=(const Venue &) = delete;
    ~Venue() { (void)::close(fd_); }

    // Sends all of `text`; false if the connection has ended.
    bool send(std::string_view text) {
        while (!text.empty()) {
            const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
            if (sent < 0 && errno != EINTR)
                return false;
            if (sent > 0)
                text.remove_prefix(static_cast<size_t>(sent));
        }
        return true;
    }

    // The next line, if it is here already.
    std::optional<std::string> next() {
        size_t end = begun_.find('\n');
        if (end == std::string::npos) {
            char bytes[4096];
            const ssize_t got = ::recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT);
            if (got == 0)
                die("the venue closed the connection");
            if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
                die(std::string("venue: ") + strerror(errno));
            if (got > 0)
                begun_.append(bytes, static_cast<size_t>(got));
            end = begun_.find('\n');
        }
        if (end == std::string::npos)
            return std::nullopt;
        std::string line = begun_.substr(0, end);
        begun_.erase(0, end + 1);
        return line;
    }

  private:
    int fd_ = -1;
    std::string begun_;
};

// Reports `event`, which must not be lost: waits while the lane is full.
void report(haltline::Asker &asker, const hl_event &event) {
    hl_reason reason;
    while ((reason = asker.report(event)) == HL_FULL)
        std::this_thread::yield();
    if (reason != HL_OK)
        die(haltline::text(asker.denied()));
}

// What the venue said about an order like `order`.
hl_event event_of(const std::string &line, const hl_event &order) {
    hl_event event = order;
    event.ref_id = 0;
    std::istringstream words(line);
    std::string verb;
    words >> verb >> event.id;
    event.side = event.id % 2 == 0 ? HL_BUY : HL_SELL;
    if (verb == "ack") {
        event.kind = HL_ACK;
    } else if (verb == "canceled") {
        event.kind = HL_CANCELED;
    } else if (verb == "expired") {
        event.kind = HL_EXPIRED;
    } else if (verb == "fill") {
        event.kind = HL_FILL;
        words >> event.ref_id >> event.qty >> event.px;
    } else {
        words.setstate(std::ios::failbit);
    }
    if (!words)
        die("the venue said " + line);
    return event;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 7)
        die("usage: gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT");
    const std::string socket = argv[1], session = argv[2], instrument = argv[6];
    std::string token;
    if (!std::getline(std::ifstream(argv[3]), token))
        die(std::string(argv[3]) + " has no token");
    Venue venue(argv[4]);

    hl_error error{};
    auto gate = haltline::Gate::attach(socket, session, token, build, attach_timeout_ms, error);
    if (!gate)
        die(error.text);
    const auto strategy = gate->strategy(argv[5], error);
    const auto instrument_id = strategy ? gate->instrument(instrument, error) : std::nullopt;
    auto asker = instrument_id ? gate->asker(error) : std::nullopt;
    if (!asker)
        die(error.text);

    hl_event order = hl_event_of(HL_NEW);
    order.strategy = *strategy;
    order.account = gate->account_of(*strategy);
    order.instrument = *instrument_id;
    order.qty = 1;
    order.px = 1000;
    // Ids are never used twice, not even by the next run.
    order.id = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
    std::optional<bool> open;
    uint64_t denials = 0;
    unsigned outstanding = 0;
    for (;;) {
        while (const auto line = venue.next()) {
            const hl_event event = event_of(*line, order);
            outstanding -= event.kind != HL_ACK;
            report(*asker, event);
        }
        while (const auto told = asker->instruction()) {
            // HL_DO_MASS_CANCEL is told only to gateways that say that they take it.
            if (told->kind == HL_DO_DISCONNECT)
                die("haltline wants the connection to the venue cut");
            if (told->kind != HL_DO_CANCEL)
                continue;
            if (!venue.send("cancel " + std::to_string(told->id) + "\n"))
                die("the venue's connection has ended");
            hl_event cancel = hl_event_of(HL_CANCEL);
            cancel.id = ++order.id;
            cancel.ref_id = told->id;
            report(*asker, cancel);
        }
        if (outstanding >= most_outstanding) {
            std::this_thread::yield();
            continue;
        }
        order.id++;
        order.side = order.id % 2 == 0 ? HL_BUY : HL_SELL;
        // Room first: what is sent has to be reported.
        const bool room = asker->room() >= events_per_order;
        haltline::Pass pass;
        if (room)
            pass = gate->kind() == HL_KIND_ASK ? asker->ask(order, patience_ns)
                                               : asker->admit(order.strategy, order.instrument);
        if (pass) {
            // The pass is held until send() has returned, and no longer. A venue that does not read keeps it, and a kill
            // unconfirmed: rightly so, for part of the order may be on its way.
            const std::string line = "new " + std::to_string(order.id) + " " + instrument +
                                     (order.side == HL_BUY ? " buy " : " sell ") + std::to_string(order.qty) + " " +
                                     std::to_string(order.px) + " " + std::to_string(hl_clock()) + "\n";
            const bool sent = venue.send(line);
            pass.exit();
            if (!sent)
                die("the venue's connection has ended");
            outstanding++;
            if (gate->kind() == HL_KIND_OBSERVE)
                report(*asker, order);
            if (open != true)
                std::cout << "open" << std::endl;
            open = true;
            denials = 0;
        } else {
            const hl_denied denied = asker->denied();
            if (open != false)
                std::cout << "closed: " << (room ? haltline::text(denied) : "the lane to haltline is full") << std::endl;
            open = false;
            if (++denials == 1000)
                std::cout << "denied 1000" << std::endl;
            if (denied.reason == HL_DAMAGED || denied.reason == HL_BAD_VERDICT)
                die(haltline::text(denied));
            // Haltline may have been started anew. Until it has, the gate stays closed.
            if (denied.reason == HL_LAPSED && !gate->is_connected())
                (void)gate->reconnect(socket, session, token, build, timeout_ms, error);
            std::this_thread::yield();
        }
    }
}
