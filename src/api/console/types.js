// Shapes of what the API answers, for the type checker. No code.

/**
 * @typedef {{ kind: string, name: string }} ScopeName
 * @typedef {{ id: string, mode: string, epoch: number, at: string, actor: string, reason: string, trip: any }} Cause
 * @typedef {{ scope: ScopeName, mode: string, epoch: number, causes: Cause[], flat?: Flat }} Halt
 * @typedef {{
 *   scope: ScopeName, rule: string, limit: string, observed: string | null, unit: string,
 *   utilisation_percent: number | null, action: { do: string, scope?: string }, warn_percent: number[],
 *   window_ns?: number, kind?: string, burst?: number
 * }} LimitRow
 * @typedef {{
 *   name: string, kind: string, connected: boolean, last_seq: number, told: boolean, confirmed: boolean, own: boolean,
 *   [more: string]: any
 * }} SessionRow
 * @typedef {{ stale: boolean, progress: number, last_round_age_ns: number | null, queue_depth: number }} EngineHealth
 * @typedef {{ durable: boolean, error: string | null, writes: number, failures: number, durable_at: string | null }} Latch
 * @typedef {{ state: string, error?: string | null, denies_new_flow?: boolean }} Journal
 * @typedef {{
 *   events: Record<string, number>, admitted: number, denied: Record<string, number>, trips: Record<string, number>,
 *   warnings: Record<string, number>, anomalies: Record<string, number>, working_orders: number,
 *   notices_dropped: number, [more: string]: any
 * }} Totals
 * @typedef {{
 *   events_per_second: number, admitted_per_second: number, denied_per_second: number,
 *   latency_ns: { count: number, p50: number | null, p99: number | null } | null
 * }} Flow
 * @typedef {{
 *   mode: string, stale: boolean, halts: Halt[], orphans: any[], totals: Totals, latch: Latch, journal: Journal,
 *   limits_generation: number, alerts: Alert[], flow: Flow, scopes_left_off: number, overrides: Override[],
 *   probation: Probation[], [more: string]: any
 * }} State
 * @typedef {{
 *   rule: string, percent: number, observed: string | null, limit: string, unit: string, action: { do: string, scope?: string }
 * }} Worst
 * @typedef {{
 *   kind: string, name: string, mode: string, epoch: number, in_force: string, working: number, warned: number | null,
 *   worst: Worst | null
 * }} ScopeRow
 * @typedef {{
 *   seq: number, at: string, at_ms: number, engine: EngineHealth, state?: State, set?: Partial<State>, sessions?: SessionRow[],
 *   scopes?: ScopeRow[], gone?: ScopeName[]
 * }} StreamEvent
 * @typedef {{
 *   id: string, number: number, at: string, last_at: string, kind: string, name: string, text: string, severity: string,
 *   state: string, count: number, [more: string]: any
 * }} Alert
 * @typedef {{
 *   session: string, pid: number, build: string, status: string, confirmed_ns: number | null, inside_at_raise: number,
 *   still_inside: number, died_inside: number
 * }} GateRow
 * @typedef {{ name: string, status: string, told_ns: number | null, confirmed_ns: number | null }} ReceiptSession
 * @typedef {{
 *   id: string, status: string, missing: { latch: boolean, sessions: number, session_names: string[], gates: number },
 *   gates: GateRow[], scope: ScopeName, by: string, asked: string, mode: string, epoch: number, actor: string,
 *   reason: string, pressed_at: string, raised_at: string, raised_ns: number,
 *   latch: { status: string, durable: boolean, durable_ns?: number, durable_at?: string, error?: string },
 *   sessions: ReceiptSession[], working_orders: number | null, flat?: Flat
 * }} Receipt
 * @typedef {{
 *   status: string, orders_at_halt?: number, residual?: number, in_progress?: number, by_state?: Record<string, number>,
 *   instructions?: { cancel: number, mass_cancel: number, disconnect: number },
 *   ended?: { canceled: number, filled: number, otherwise: number }, flat_ns?: number | null, last_end_ns?: number | null,
 *   remainder?: { session: string, id: string, state: string, attempts: number }[] | null
 * }} Flat
 * @typedef {{
 *   scope: ScopeName, mode: string, working_orders: number | null,
 *   sessions: { name: string, working_orders: number | null, connected: boolean }[], sessions_complete: boolean,
 *   cancels: { halted: boolean, reduce_only: boolean },
 *   gross: string | null, net_long: string | null, net_short: string | null, unit: string, text: string | null
 * }} Preview
 * @typedef {{
 *   id: string, scope: ScopeName, epoch: number, mode: string, asked_by: string, reason: string, asked_at: string,
 *   status: string, done: boolean, expires_in_seconds?: number, agreed_by?: string, agreed_reason?: string,
 *   lowered_at?: string, [more: string]: any
 * }} Rearm
 * @typedef {"normal" | "warn" | "breach" | "reduce_only" | "halted"} Severity
 * @typedef {{
 *   key: string, scope: ScopeName, row: ScopeRow, severity: Severity, rank: number, percent: number
 * }} ScopeState
 * @typedef {{
 *   id: string, status: string, ended?: string | null, scope: ScopeName, rule: string, window_ns: number | null, limit: string,
 *   configured: string, unit: string | null, raises: boolean, by: string, reason: string, agreed_by: string | null,
 *   agreed_reason: string | null, seconds_left: number | null, removal: { by: string, reason: string } | null
 * }} Override
 * @typedef {{
 *   id: string, scope: ScopeName, fraction_percent: number, step: number, steps: number, since: string, by: string,
 *   clean_seconds: number, clean_seconds_needed: number, clean_orders: number, clean_orders_needed: number
 * }} Probation
 * @typedef {{ tag: string, changes: string[] }} ToApprove
 * @typedef {{ may_open: boolean, at: string, checks: { name: string, outcome: string, text: string }[] }} Preflight
 * @typedef {{ name: string, role: string, scopes: ScopeName[] | null }} Me
 */

export {};
