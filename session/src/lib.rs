//! MQTT sessions as values: the replicated half and the live half.
