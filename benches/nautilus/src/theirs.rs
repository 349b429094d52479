//! nautilus-risk's side: its `RiskEngine` with the cache, portfolio and message bus that it works with, and in the place of
//! the execution engine a box that keeps what it is sent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::str::FromStr;

use nautilus_common::cache::Cache;
use nautilus_common::clock::TestClock;
use nautilus_common::messages::execution::{SubmitOrder, TradingCommand};
use nautilus_common::msgbus::{self, MessagingSwitchboard, TypedIntoHandler};
use nautilus_common::throttler::RateLimit;
use nautilus_core::{UUID4, UnixNanos};
use nautilus_model::accounts::{AccountAny, CashAccount, MarginAccount};
use nautilus_model::data::QuoteTick;
use nautilus_model::enums::{AccountType, LiquiditySide, OmsType, OrderSide, OrderType, TradingState};
use nautilus_model::events::{AccountState, OrderAccepted, OrderCanceled, OrderEventAny, OrderFilled, OrderSubmitted};
use nautilus_model::identifiers::{
    AccountId, ClientOrderId, InstrumentId, PositionId, StrategyId, Symbol, TradeId, TraderId, VenueOrderId,
};
use nautilus_model::instruments::{Equity, InstrumentAny};
use nautilus_model::orders::{Order as _, OrderAny, OrderTestBuilder};
use nautilus_model::position::Position;
use nautilus_model::types::{AccountBalance, Currency, Money, Price, Quantity};
use nautilus_portfolio::Portfolio;
use nautilus_risk::engine::RiskEngine;
use nautilus_risk::engine::config::RiskEngineConfig;
use rust_decimal::Decimal;

use crate::orders::{Mode, Order, Setup, Side};
use crate::outcome::{Answer, Outcome, Subject};

/// What kind of account the orders are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// May sell short: working orders of both sides are looked at.
    Margin,
    /// May not, and may borrow: working sells are looked at.
    Cash,
}

/// What the risk engine sent on.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To the execution engine's queue: admitted.
    pub admitted: Vec<TradingCommand>,
    /// Events that say that an order was denied.
    pub denied: Vec<OrderEventAny>,
}

thread_local! {
    /// Of all engines of this thread, as its message bus is: they are asked in turn.
    static OUTBOX: RefCell<Outbox> = RefCell::default();
}

/// nautilus-risk, ready to be asked.
pub struct Nautilus {
    engine: RiskEngine,
    cache: Rc<RefCell<Cache>>,
    clock: Rc<RefCell<TestClock>>,
    trader: TraderId,
    strategy: StrategyId,
    account: AccountId,
    instruments: HashMap<String, InstrumentAny>,
}

fn money(dollars: i64) -> Money {
    Money::from_decimal(Decimal::from(dollars), Currency::USD()).expect("an amount that can be represented")
}

fn equity(name: &str, setup: &Setup) -> InstrumentAny {
    InstrumentAny::Equity(Equity::new(
        InstrumentId::from(format!("{name}.SIM")),
        Symbol::from(name),
        None,
        Currency::USD(),
        2,
        Price::from("0.01"),
        None,
        Some(Quantity::from(setup.limits.order_qty.to_string())),
        Some(Quantity::from(setup.limits.order_qty_least.to_string())),
        None,
        None,
        // Full margin: what an order needs is its value.
        Some(Decimal::ONE),
        Some(Decimal::ONE),
        None,
        None,
        None,
        UnixNanos::default(),
        UnixNanos::default(),
    ))
}

impl Nautilus {
    /// An engine with the limits of `setup`.
    pub fn new(setup: &Setup, kind: Account) -> Nautilus {
        let account_id = AccountId::from("SIM-001");
        let mut cache = Cache::default();
        let mut max_notional_per_order = ahash::AHashMap::new();
        let mut instruments = HashMap::new();
        for listing in &setup.listings {
            let instrument = equity(&listing.name, setup);
            let id = InstrumentId::from(format!("{}.SIM", listing.name));
            cache.add_instrument(instrument.clone()).expect("a new instrument");
            if listing.priced {
                let (bid, ask, size) = (Price::from("99.99"), Price::from("100.01"), Quantity::from("100000"));
                let quote = QuoteTick::new(id, bid, ask, size, size, UnixNanos::default(), UnixNanos::default());
                cache.add_quote(quote).expect("a quote");
            }
            max_notional_per_order.insert(id, Decimal::from(setup.limits.order_notional));
            instruments.insert(listing.name.clone(), instrument);
        }
        let balance = AccountBalance::new(money(setup.limits.funds), money(0), money(setup.limits.funds));
        let state = |kind| {
            AccountState::new(
                account_id,
                kind,
                vec![balance],
                vec![],
                true,
                UUID4::new(),
                UnixNanos::default(),
                UnixNanos::default(),
                Some(Currency::USD()),
            )
        };
        let account = match kind {
            Account::Margin => AccountAny::Margin(MarginAccount::new(state(AccountType::Margin), true)),
            Account::Cash => AccountAny::Cash(CashAccount::new(state(AccountType::Cash), true, true)),
        };
        cache.add_account(account).expect("a new account");

        let cache = Rc::new(RefCell::new(cache));
        let clock = Rc::new(RefCell::new(TestClock::new()));
        msgbus::register_trading_command_endpoint(
            MessagingSwitchboard::exec_engine_queue_execute(),
            TypedIntoHandler::from(|command| OUTBOX.with_borrow_mut(|outbox| outbox.admitted.push(command))),
        );
        msgbus::register_order_event_endpoint(
            MessagingSwitchboard::exec_engine_process(),
            TypedIntoHandler::from(|event| OUTBOX.with_borrow_mut(|outbox| outbox.denied.push(event))),
        );
        let rate = RateLimit::new(setup.limits.rate as usize, setup.limits.window_ns);
        let config = RiskEngineConfig {
            bypass: false,
            max_order_submit: rate.clone(),
            max_order_modify: rate,
            max_notional_per_order,
            debug: false,
        };
        let portfolio = Portfolio::new(cache.clone(), clock.clone(), None);
        let engine = RiskEngine::new(config, portfolio, clock.clone(), cache.clone());
        Nautilus {
            engine,
            cache,
            clock,
            trader: TraderId::from("TRADER-001"),
            strategy: StrategyId::from("S-001"),
            account: account_id,
            instruments,
        }
    }

    /// Lets the time be `at`.
    pub fn advance(&self, at: u64) {
        // Of the timers that this may ring only the throttlers have any, and those look at the time by themselves.
        self.clock.borrow_mut().advance_time(UnixNanos::from(at), true);
    }

    /// The order as nautilus has it, not in the cache yet.
    pub fn order(&self, order: &Order) -> OrderAny {
        let kind = if order.px.is_some() { OrderType::Limit } else { OrderType::Market };
        let mut builder = OrderTestBuilder::new(kind);
        builder
            .trader_id(self.trader)
            .strategy_id(self.strategy)
            .instrument_id(InstrumentId::from(format!("{}.SIM", order.instrument)))
            .client_order_id(ClientOrderId::from(format!("O-{}", order.id)))
            .side(match order.side {
                Side::Buy => OrderSide::Buy,
                Side::Sell => OrderSide::Sell,
            })
            .quantity(Quantity::from_str(&order.qty).expect("a quantity"));
        if let Some(px) = &order.px {
            builder.price(Price::from_str(px).expect("a price"));
        }
        builder.build()
    }

    /// What a strategy does before it asks: the order goes into the cache.
    ///
    /// # Errors
    /// The cache has an order with its id.
    pub fn add(&self, order: OrderAny) -> Result<(), String> {
        self.cache.borrow_mut().add_order(order, None, None, false).map_err(|e| e.to_string())
    }

    /// The command to submit `order`.
    pub fn command(&self, order: &OrderAny) -> TradingCommand {
        let now = UnixNanos::default();
        TradingCommand::SubmitOrder(SubmitOrder::from_order(order, self.trader, None, None, UUID4::new(), now))
    }

    /// The submit path: checks, throttler, and out to the execution engine or denied.
    pub fn execute(&mut self, command: TradingCommand) {
        self.engine.execute(command);
    }

    /// What came of every `execute` since the last call.
    pub fn taken(&self) -> Outbox {
        OUTBOX.with_borrow_mut(|outbox| Outbox {
            // The room stays, so that no call pays for making it.
            admitted: outbox.admitted.drain(..).collect(),
            denied: outbox.denied.drain(..).collect(),
        })
    }

    /// Applies `event` to the order in the cache, as the execution engine does.
    fn apply(&self, event: &OrderEventAny) {
        self.cache.borrow_mut().update_order(event).expect("an event that fits the order");
    }

    /// The order has been sent to the venue.
    pub fn submitted(&self, order: &OrderAny) {
        let now = UnixNanos::default();
        self.apply(&OrderEventAny::Submitted(OrderSubmitted::new(
            self.trader,
            self.strategy,
            order.instrument_id(),
            order.client_order_id(),
            self.account,
            UUID4::new(),
            now,
            now,
        )));
    }

    fn venue_id(order: &OrderAny) -> VenueOrderId {
        VenueOrderId::from(format!("V{}", order.client_order_id()))
    }

    /// The venue has accepted it: it is working.
    pub fn accepted(&self, order: &OrderAny) -> OrderEventAny {
        let now = UnixNanos::default();
        let event = OrderEventAny::Accepted(OrderAccepted::new(
            self.trader,
            self.strategy,
            order.instrument_id(),
            order.client_order_id(),
            Nautilus::venue_id(order),
            self.account,
            UUID4::new(),
            now,
            now,
            false,
        ));
        self.apply(&event);
        event
    }

    /// It is canceled.
    pub fn canceled(&self, order: &OrderAny) -> OrderEventAny {
        let now = UnixNanos::default();
        let event = OrderEventAny::Canceled(OrderCanceled::new(
            self.trader,
            self.strategy,
            order.instrument_id(),
            order.client_order_id(),
            UUID4::new(),
            now,
            now,
            false,
            Some(Nautilus::venue_id(order)),
            Some(self.account),
        ));
        self.apply(&event);
        event
    }

    /// It is filled, all of it at its price: the position is opened.
    fn filled(&mut self, order: &OrderAny, instrument: &InstrumentAny) -> OrderEventAny {
        let now = UnixNanos::default();
        let fill = OrderFilled::new(
            self.trader,
            self.strategy,
            order.instrument_id(),
            order.client_order_id(),
            Nautilus::venue_id(order),
            self.account,
            TradeId::from("T-1"),
            order.order_side(),
            order.order_type(),
            order.quantity(),
            order.price().expect("a limit order"),
            Currency::USD(),
            LiquiditySide::Taker,
            UUID4::new(),
            now,
            now,
            false,
            Some(PositionId::from("P-1")),
            None,
        );
        let event = OrderEventAny::Filled(fill);
        self.apply(&event);
        let position = Position::new(instrument, fill);
        self.cache.borrow_mut().add_position(&position, OmsType::Netting).expect("a new position");
        self.engine.portfolio_mut().initialize_positions();
        event
    }

    /// Forgets an order that is not working.
    pub fn purge(&self, id: ClientOrderId) {
        self.cache.borrow_mut().purge_order(id);
    }

    /// How many orders are working.
    pub fn working(&self) -> usize {
        self.cache.borrow().orders_open_count(None, None, None, None, None)
    }
}

/// A reason without its numbers and what comes after a colon: one word for all orders that are denied alike.
pub fn reason(text: &str) -> String {
    let head = text.split(": ").next().unwrap_or(text);
    let chars: Vec<char> = head.chars().collect();
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        let in_word = i > 0 && chars[i - 1].is_alphanumeric();
        let sign = usize::from(chars[i] == '-');
        if !in_word && chars.get(i + sign).is_some_and(char::is_ascii_digit) {
            out.push('N');
            i += sign;
            while i < chars.len() && (chars[i].is_ascii_digit() || matches!(chars[i], '.' | '_')) {
                i += 1;
            }
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

impl Subject for Nautilus {
    fn submit(&mut self, at: u64, order: &Order) -> Outcome {
        self.advance(at);
        let order = self.order(order);
        if self.add(order.clone()).is_err() {
            return Outcome::Denied("refused by the cache, before the risk engine".into());
        }
        let command = self.command(&order);
        self.execute(command);
        let Outbox { admitted, denied } = self.taken();
        match (&admitted[..], &denied[..]) {
            ([_], []) => {
                self.submitted(&order);
                Outcome::Admitted
            }
            ([], [denied]) => {
                self.apply(denied);
                Outcome::Denied(reason(&denied.message().expect("a denial has a reason")))
            }
            other => panic!("one order was admitted or denied once, not {other:?}"),
        }
    }

    fn answer(&mut self, at: u64, order: &Order, answer: Answer) {
        self.advance(at);
        let instrument = self.instruments.get(&order.instrument).cloned();
        let order = self.order(order);
        let event = match answer {
            Answer::Accepted => self.accepted(&order),
            Answer::Canceled => self.canceled(&order),
            Answer::Filled => self.filled(&order, &instrument.expect("what is filled is known")),
        };
        // The portfolio locks and frees margin by this.
        msgbus::publish_order_event(format!("events.order.{}", self.strategy).into(), &event);
    }

    fn set_mode(&mut self, at: u64, mode: Mode) {
        self.advance(at);
        self.engine.set_trading_state(match mode {
            Mode::Normal => TradingState::Active,
            Mode::ReduceOnly => TradingState::Reducing,
            Mode::Halted => TradingState::Halted,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn reason_has_no_numbers_but_keeps_its_words() {
        assert_eq!(reason("price -1.005 invalid (precision 3 > 2)"), "price N invalid (precision N > N)");
        assert_eq!(reason("MARGIN_EXCEEDS_FREE_BALANCE: free=1.00 USD"), "MARGIN_EXCEEDS_FREE_BALANCE");
        assert_eq!(
            reason("BUY when TradingState::REDUCING and LONG A1.SIM"),
            "BUY when TradingState::REDUCING and LONG A1.SIM"
        );
    }
}
