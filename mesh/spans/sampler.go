package spans

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// Sampler decides which connections get a span, as OTEL_TRACES_SAMPLER names it. It comes out of ParseSampler.
type Sampler struct {
	// follow takes the decision of whoever began the trace, if somebody did.
	follow bool
	// bound is the trace ids' limit, of 2^63: those below are sampled.
	bound uint64
}

// ParseSampler reads the name of an OpenTelemetry sampler and its argument, a share from 0 to 1 for the ratio samplers ("" is
// 1). The name "" is parentbased_always_on, as OpenTelemetry has it.
func ParseSampler(name, argument string) (Sampler, error) {
	kinds := map[string]struct{ follow, ratio, on bool }{
		"":                         {true, false, true},
		"always_on":                {false, false, true},
		"always_off":               {false, false, false},
		"traceidratio":             {false, true, true},
		"parentbased_always_on":    {true, false, true},
		"parentbased_always_off":   {true, false, false},
		"parentbased_traceidratio": {true, true, true},
	}
	kind, known := kinds[name]
	if !known {
		return Sampler{}, fmt.Errorf("sampler %q is none of always_on, always_off, traceidratio, and these with parentbased_ before", name)
	}
	share := 0.0
	if kind.on {
		share = 1
	}
	if kind.ratio && argument != "" {
		var err error
		if share, err = strconv.ParseFloat(argument, 64); err != nil || !(share >= 0 && share <= 1) {
			return Sampler{}, fmt.Errorf("sampler %s: share %q is no number from 0 to 1", name, argument)
		}
	}
	s := Sampler{follow: kind.follow, bound: uint64(share * (1 << 62) * 2)}
	if share == 1 {
		s.bound = math.MaxUint64
	}
	return s, nil
}

// root decides on a trace that begins here, by its id, so that every proxy decides alike.
func (s Sampler) root(c trace.Context) bool {
	return s.bound == math.MaxUint64 || binary.BigEndian.Uint64(c.TraceID[8:])>>1 < s.bound
}

// wants decides on a connection. What we began ourselves was decided then; the trace says so.
func (s Sampler) wants(ended *telemetry.Ended) bool {
	switch {
	case ended.Trace == (trace.Context{}):
		ended.Trace = trace.New()
	case ended.Reporter == telemetry.Source, ended.Request != nil, s.follow:
		return ended.Trace.Sampled()
	}
	return s.root(ended.Trace)
}
