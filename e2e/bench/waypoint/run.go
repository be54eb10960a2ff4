package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	warmUp = 300 * time.Millisecond // before a sample
	rest   = 15 * time.Second       // after which memory has been given back
	starts = 5
	maxLog = 64 << 20 // bytes of an access log until it begins anew
)

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// bench is a run.
type bench struct {
	*site
	results *results
}

// run measures everything: first the life of a waypoint that has little to do, then what requests cost, then changes.
func run(ctx context.Context, o options) (err error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	b := &bench{site: &site{options: o}, results: newResults(o)}
	defer func() {
		err = errors.Join(err, b.down())
		if err == nil {
			err = os.RemoveAll(o.dir)
		}
	}()
	if err := b.build(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{b.live, b.rounds, b.changes} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	fmt.Print(b.results.table())
	return b.results.keep(o)
}

// wanted tells whether a row was asked for.
func (b *bench) wanted(name string) bool { return b.options.rows.MatchString(name) }

// live measures starts and memory, of each waypoint.
func (b *bench) live(ctx context.Context) error {
	for _, w := range b.waypoints {
		for range starts {
			if err := b.restart(ctx, w); err != nil {
				return err
			}
		}
		if b.wanted(idle.name) {
			if err := b.weigh(ctx, w, idle); err != nil {
				return err
			}
		}
		for _, crowd := range []struct {
			figure
			tunnels, connections int
		}{{tunnels, 1000, 1000}, {connections, 100, 10_000}} {
			if !b.wanted(crowd.name) {
				continue
			}
			job := Job{To: b.to("change", false), Via: b.via(w), Tunnels: crowd.tunnels, Connections: crowd.connections, Rate: 50, Path: "/", Authority: "change"}
			if err := b.during(job, func() error { return b.weigh(ctx, w, crowd.figure) }); err != nil {
				return fmt.Errorf("%s: %w", crowd.name, err)
			}
			if err := b.restart(ctx, w); err != nil { // what it holds next is to be something else
				return err
			}
		}
	}
	for _, c := range slices.Backward(cases()) { // the largest first
		text := c.yaml()
		if text == "" {
			continue
		}
		for i, part := range parts(text) {
			if err := b.cluster.Apply(fmt.Sprintf("case-%s-%d", c.service, i), part); err != nil {
				return err
			}
		}
		for _, w := range b.waypoints {
			if err := b.await(ctx, c, w); err != nil {
				return err
			}
			if c.name == rules(5000) && b.wanted(routes.name) {
				if err := b.weigh(ctx, w, routes); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// parts are the objects of a text in pieces that istiod-lite takes as files.
func parts(text string) []string {
	const most = 900 << 10 // bytes
	pieces := []string{""}
	for object := range strings.SplitAfterSeq(text, "\n---\n") {
		if last := len(pieces) - 1; len(pieces[last])+len(object) <= most {
			pieces[last] += object
		} else {
			pieces = append(pieces, object)
		}
	}
	return pieces
}

// restart starts a waypoint, anew if need be, and notes how long it takes.
func (b *bench) restart(ctx context.Context, w *waypoint) error {
	w.process.stop()
	took, err := b.startWaypoint(ctx, w)
	if err == nil {
		b.results.note(ready, w.name, took.Seconds()*1e3)
	}
	return err
}

// weigh notes what a waypoint holds at rest.
func (b *bench) weigh(ctx context.Context, w *waypoint, f figure) error {
	if err := pause(ctx, rest); err != nil {
		return err
	}
	rss, anonymous, err := w.process.resident()
	b.results.note(f, w.name, rss)
	if err == nil && b.profiles != "" && w.name == ours {
		err = b.save(ctx, w, "heap?gc=1", f.name)
	}
	b.results.note(figure{name: f.name + ", anonymous", unit: f.unit}, w.name, anonymous)
	return err
}

func (b *bench) to(service string, grpc bool) netip.AddrPort {
	port := uint16(80)
	if grpc {
		port = 81
	}
	return netip.AddrPortFrom(b.cluster.VIPs(service)[0], port)
}

func (b *bench) via(w *waypoint) netip.AddrPort { return netip.AddrPortFrom(b.addr(w.pod), tunnelPort) }

// job is the requests of a case.
func (b *bench) job(c testCase, w *waypoint) Job {
	j := Job{GRPC: c.grpc, Rate: c.rate, Path: c.path, Authority: "bench", Fields: c.fields, Connections: outstanding, Streams: 1}
	if c.grpc {
		j.Connections, j.Streams = h2Connections, outstanding/h2Connections
		j.Fields = append(slices.Clone(j.Fields), field{Name: "content-type", Value: grpcType}, field{Name: "te", Value: "trailers"})
	}
	if p, ok := plain[c.role]; ok {
		j.To = netip.AddrPortFrom(b.addr(proxyPod), p.port)
	} else {
		j.To, j.Via, j.Tunnels = b.to(c.service, c.grpc), b.via(w), clientsTunnels
	}
	return j
}

// during does something while requests are made, all of which have to be answered.
func (b *bench) during(j Job, f func() error) error {
	if err := b.client.call("Start", j, &struct{}{}); err != nil {
		return err
	}
	err := f()
	var totals Totals
	err = errors.Join(err, b.client.call("Read", struct{}{}, &totals), b.client.call("Stop", struct{}{}, &struct{}{}))
	if err == nil && totals.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed: %s", totals.Failed, totals.Failed+totals.Done, totals.Failure)
	}
	return err
}

// await has a case work: its requests are answered, and others are denied where it has a policy.
func (b *bench) await(ctx context.Context, c testCase, w *waypoint) error {
	allowed := b.job(c, w)
	allowed.Rate = 100
	denied := allowed
	denied.Path = "/nowhere"
	for began := time.Now(); ; {
		wait := func() error { return pause(ctx, 200*time.Millisecond) }
		err := b.during(allowed, wait)
		if err == nil && strings.Contains(c.yaml(), "AuthorizationPolicy") && b.during(denied, wait) == nil {
			err = errors.New("its policy isn't kept yet")
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Since(began) > readyLimit {
			return fmt.Errorf("%s by %s: %w", c.name, w.name, err)
		}
	}
}

// rounds measures the cases, one after the other in each round.
func (b *bench) rounds(ctx context.Context) error {
	for round := range b.options.rounds {
		say("round %d of %d", round+1, b.options.rounds)
		for _, c := range cases() {
			for _, w := range b.waypoints {
				if !b.wanted(c.name) && !b.referred(c.name) || c.role != "" && w != b.waypoints[0] {
					continue
				}
				if err := b.sample(ctx, c, w); err != nil {
					return fmt.Errorf("%s by %s: %w", c.name, w.name, err)
				}
			}
		}
	}
	return nil
}

// referred tells whether a row that was asked for is compared with one of that name.
func (b *bench) referred(name string) bool {
	return slices.ContainsFunc(cases(), func(c testCase) bool { return c.of == name && b.wanted(c.name) })
}

// sample measures a case once.
func (b *bench) sample(ctx context.Context, c testCase, w *waypoint) error {
	measured, by := w.process, w.name
	if p, ok := b.proxies[c.role]; ok {
		measured, by = p, ""
	}
	b.trim(w)
	return b.during(b.job(c, w), func() error {
		if err := pause(ctx, warmUp); err != nil {
			return err
		}
		profiled := b.profile(ctx, c, w)
		before, err := b.read(measured)
		if err != nil {
			return err
		}
		if err := pause(ctx, b.options.duration); err != nil {
			return err
		}
		after, err := b.read(measured)
		if err != nil {
			return err
		}
		b.results.add(c, by, after.since(before))
		return <-profiled
	})
}

// trim keeps access logs from filling the disk.
func (b *bench) trim(w *waypoint) {
	if info, err := os.Stat(w.process.log); err == nil && info.Size() > maxLog {
		_ = os.Truncate(w.process.log, 0)
	}
}

// reading is everything at one moment.
type reading struct {
	at     time.Time
	totals Totals
	used   usage
}

func (b *bench) read(measured *process) (r reading, err error) {
	err = b.client.call("Read", struct{}{}, &r.totals)
	if err == nil {
		r.used, err = measured.usage()
	}
	r.at = time.Now()
	return r, err
}

func (r reading) since(before reading) sample {
	return sample{
		Requests: float64(r.totals.Done - before.totals.Done), Seconds: r.at.Sub(before.at).Seconds(),
		User: (r.used.user - before.used.user).Seconds() * 1e6, System: (r.used.system - before.used.system).Seconds() * 1e6,
		P50: r.totals.P50.Seconds() * 1e6, P99: r.totals.P99.Seconds() * 1e6,
	}
}

// profile takes a CPU profile of our waypoint during a sample, if that is wished for.
func (b *bench) profile(ctx context.Context, c testCase, w *waypoint) <-chan error {
	done := make(chan error, 1)
	if b.profiles == "" || c.role != "" || w.name != ours {
		done <- nil
		return done
	}
	go func() {
		done <- b.save(ctx, w, fmt.Sprintf("profile?seconds=%d", max(1, int(b.duration/time.Second))), c.name)
	}()
	return done
}

// save takes a profile of a waypoint.
func (b *bench) save(ctx context.Context, w *waypoint, page, name string) error {
	text, err := b.get(ctx, w.pod, "http://127.0.0.1:15000/debug/pprof/"+page)
	if err == nil {
		err = os.MkdirAll(b.profiles, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(b.profiles, strings.NewReplacer(" ", "-", ",", "", "/", "").Replace(name)+".pprof"), text, 0o644)
	}
	return err
}

// changes changes a route at random moments, under load, and notes when requests first went by it.
func (b *bench) changes(ctx context.Context) error {
	if b.options.changes == 0 || !b.wanted(changed.name) {
		return nil
	}
	say("%d changes of a route", b.options.changes)
	for _, w := range b.waypoints {
		job := Job{To: b.to("change", false), Via: b.via(w), Tunnels: clientsTunnels, Connections: outstanding, Rate: 2000, Path: "/", Authority: "change", Watch: "x-version"}
		if err := b.during(job, func() error {
			for version := range b.options.changes {
				if err := errors.Join(pause(ctx, rand.N(100*time.Millisecond)), b.change(ctx, w, version)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("changes of a route: %w", err)
		}
	}
	return nil
}

// change changes the route, and waits for the first answer by it.
func (b *bench) change(ctx context.Context, w *waypoint, version int) error {
	text := changeYAML(version)
	began := time.Now()
	if err := b.cluster.Apply("change", text); err != nil {
		return err
	}
	for time.Since(began) < readyLimit {
		var totals Totals
		if err := b.client.call("Read", struct{}{}, &totals); err != nil {
			return err
		}
		if at, seen := totals.Seen[strconv.Itoa(version)]; seen {
			b.results.note(changed, w.name, at.Sub(began).Seconds()*1e3)
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("version %d isn't seen", version)
}

// pause waits, or fails when the run is to end.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
