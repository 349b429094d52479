//! Alerts on their way to people: who owns one, who acknowledged it, where it was delivered.
