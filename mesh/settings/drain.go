package settings

import "time"

// DrainTimeout leaves time between the end of draining and the kill at the end of the pod's grace period.
func DrainTimeout(e *Env, fallback time.Duration) time.Duration {
	if _, set := e.Lookup("CONNECTION_TERMINATION_DEADLINE"); set {
		return e.Duration("CONNECTION_TERMINATION_DEADLINE", 0)
	}
	grace, set := e.Lookup("TERMINATION_GRACE_PERIOD_SECONDS")
	if !set {
		return fallback
	}
	return beforeKill(e.ParseDuration("TERMINATION_GRACE_PERIOD_SECONDS", grace))
}

func beforeKill(grace time.Duration) time.Duration {
	if grace > 10*time.Second {
		return grace - 5*time.Second
	}
	return max(grace-time.Second, time.Second)
}
