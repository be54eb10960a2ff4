package settings

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// units are the spellings of a duration's units, as Istio's ztunnel takes them. No unit means seconds.
var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// parseDuration reads a sum such as 5m, 1h30m, "1h 30m", 1.5h, 180 (seconds) or 1d.
func parseDuration(text string) (time.Duration, bool) {
	const digits = "0123456789."
	sum, rest := 0.0, strings.TrimSpace(text)
	for first := true; first || rest != ""; first = false {
		end := len(rest) - len(strings.TrimLeft(rest, digits))
		number, err := strconv.ParseFloat(rest[:end], 64)
		rest = rest[end:]
		end = strings.IndexAny(rest, digits+" +")
		if end < 0 {
			end = len(rest)
		}
		unit, known := units[strings.ToLower(rest[:end])]
		if err != nil || !known {
			return 0, false
		}
		sum += number * float64(unit)
		rest = strings.TrimLeft(rest[end:], " +")
	}
	if sum > math.MaxInt64/2 {
		return 0, false
	}
	return time.Duration(sum), true
}
