package kube

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
)

// quiet is for how long nothing is said of what may pass at once.
const quiet = time.Second

// lag is since when a kind's changes aren't followed, and why.
type lag struct {
	since time.Time
	err   error
}

// register adds the lag of each kind.
func (f *feed) register(registry prometheus.Registerer, kinds []decode.Kind) {
	registry.MustRegister(f.waited)
	for _, kind := range kinds {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "istiod_lite_lag_seconds", Help: "Seconds for which changes of a kind aren't followed, such as for a lack of rights; 0 while they are.",
			ConstLabels: prometheus.Labels{"kind": kind.Kind},
		}, func() float64 { return f.lag(kind).Seconds() }))
	}
}

func (f *feed) lag(kind decode.Kind) time.Duration {
	f.lock.Lock()
	defer f.lock.Unlock()
	if one, lags := f.lags[kind.Kind]; lags {
		return time.Since(one.since)
	}
	return 0
}

func (f *feed) lagging() []string {
	f.lock.Lock()
	defer f.lock.Unlock()
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(f.lags)) {
		if one := f.lags[kind]; time.Since(one.since) > quiet {
			list = append(list, fmt.Sprintf("%s for %s: %v", kind, time.Since(one.since).Round(time.Second), one.err))
		}
	}
	return list
}
