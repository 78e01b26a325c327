//! Listeners, connection actors, router and admin HTTP.
