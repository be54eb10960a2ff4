package keep

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

const day = 24 * time.Hour

func usual() Rotation {
	return Rotation{Organization: "cluster.local", TTL: RootTTL, Grace: 20, Announce: day, Retire: 90 * day}
}

func begun(t *testing.T, r Rotation) state {
	t.Helper()
	s, err := r.begin(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// advanced also checks that nothing is lost on the way through a Secret.
func advanced(t *testing.T, r Rotation, s state) (state, []string) {
	t.Helper()
	s, steps, err := r.advance(s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.encode(map[string][]byte{"other": []byte("kept")})
	if err != nil {
		t.Fatal(err)
	}
	read, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.encode(data)
	if err != nil || !maps.EqualFunc(data, again, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Fatalf("not read as it was written: %v", err)
	}
	return read, steps
}

func authorityOf(t *testing.T, s state) *ca.Authority {
	t.Helper()
	a, err := s.authority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// client is a workload that gets a new certificate when a part of the life of its present one is over.
type client struct {
	id         identity.Workload
	ttl        time.Duration
	part       float64
	credential *mtls.Credential
}

func (c *client) renew(t *testing.T, a *ca.Authority) {
	t.Helper()
	if c.credential != nil {
		life := c.credential.NotAfter().Sub(c.credential.NotBefore())
		if time.Now().Before(c.credential.NotBefore().Add(time.Duration(c.part * float64(life)))) {
			return
		}
	}
	key := ecKey(t)
	chain, err := a.Issue(c.id, key.Public(), c.ttl)
	if err != nil {
		t.Fatal(err)
	}
	if c.credential, err = mtls.NewCredential(key, chain); err != nil {
		t.Fatalf("at %s: %v", time.Now(), err)
	}
	if life := time.Until(c.credential.NotAfter()); life < min(c.ttl, day)-time.Minute {
		t.Errorf("at %s a certificate lives for %s only", time.Now(), life)
	}
}

// shake makes a handshake in memory.
func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).Handshake() }()
	err := tls.Client(b, client).Handshake()
	if err != nil {
		b.Close()
	}
	return errors.Join(err, <-done)
}

func clients(t *testing.T) []*client {
	t.Helper()
	var list []*client
	for _, c := range []struct {
		ttl  time.Duration
		part float64
	}{{day, 0.5}, {day, 0.97}, {7 * day, 0.5}, {90 * day, 0.5}, {90 * day, 0.999}} {
		id, err := identity.New("cluster.local", "demo", fmt.Sprintf("app-%d", len(list)))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &client{id: id, ttl: c.ttl, part: c.part})
	}
	return list
}

// Clients of two replicas, of which one hears of every step late, talk with each other while the root is replaced.
func TestNoHandshakeFailsWhileTheRootIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := usual()
		s := begun(t, r)
		behind := s
		mesh := clients(t)
		serving := ca.NewLive(authorityOf(t, s))
		own, err := ca.NewServing(serving, []string{"istiod.istio-system.svc"})
		if err != nil {
			t.Fatal(err)
		}
		firstRoots := x509.NewCertPool()
		firstRoots.AppendCertsFromPEM(serving.RootsPEM())
		time.Sleep(RootTTL*8/10 - 91*day)
		var history []string
		for elapsed := time.Duration(0); elapsed < 184*day; {
			var steps []string
			behind = s
			s, steps = advanced(t, r, s)
			history = append(history, steps...)
			for i, c := range mesh {
				c.renew(t, authorityOf(t, []state{s, behind}[i%2]))
			}
			for _, one := range mesh {
				for _, other := range mesh {
					config := mtls.Policy{}.ClientConfig(other.credential, []identity.Workload{one.id})
					if err := shake(mtls.Policy{}.ServerConfig(one.credential), config); err != nil {
						t.Fatalf("%s → %s at %s: %v\n%s", other.id, one.id, time.Now(), err, strings.Join(history, "\n"))
					}
				}
			}
			// The control plane's own certificate, for a client that has never heard of any other root than the first.
			serving.Set(authorityOf(t, s))
			if len(history) < 3 {
				config := own.Config()
				if err := shake(config, &tls.Config{RootCAs: firstRoots, ServerName: "istiod.istio-system.svc", NextProtos: []string{"h2"}}); err != nil {
					t.Fatalf("control plane at %s: %v", time.Now(), err)
				}
			}
			pause := 3 * day
			if elapsed >= 87*day && elapsed < 93*day || elapsed >= 178*day && elapsed < 184*day {
				pause = 4 * time.Hour
			}
			time.Sleep(pause)
			elapsed += pause
		}
		if len(history) != 3 || len(s.roots) != 1 || len(s.above) != 0 {
			t.Errorf("want all three steps, have %q", history)
		}
	})
}

func TestTheRootIsReplacedStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := usual()
		s := begun(t, r)
		first := s.signer.certificate
		expect := func(wait time.Duration, step string, roots, above int) {
			t.Helper()
			time.Sleep(wait)
			var steps []string
			s, steps = advanced(t, r, s)
			if got := strings.Join(steps, "; "); !strings.Contains(got, step) || (step == "") != (got == "") {
				t.Fatalf("want %q, have %q", step, got)
			}
			if len(s.roots) != roots || len(s.above) != above {
				t.Fatalf("after %q: %d roots, %d above", step, len(s.roots), len(s.above))
			}
			authorityOf(t, s)
		}
		expect(RootTTL*8/10-time.Hour, "", 1, 0)
		expect(time.Hour, "published the next root", 2, 0)
		if !s.signer.certificate.Equal(first) {
			t.Error("the next root signs before it is known")
		}
		expect(23*time.Hour, "", 2, 0)
		expect(time.Hour, "signs from now on", 2, 1)
		if s.signer.certificate.Equal(first) {
			t.Error("the old root still signs")
		}
		expect(90*day-time.Hour, "", 2, 1)
		expect(time.Hour, "is no longer published", 1, 0)
		expect(RootTTL*8/10-92*day, "", 1, 0)
		expect(2*day, "published the next root", 2, 0)
	})
}

// Certificates are dated back, for clocks that are behind: that is no part of a root's life, however short it is.
func TestTheNextRootComesWhenTheGraceBegins(t *testing.T) {
	for _, ttl := range []time.Duration{20 * time.Second, 5 * time.Minute, time.Hour, RootTTL} {
		t.Run(ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // certificates know only whole seconds
				r := usual()
				r.TTL, r.Grace = ttl, 50
				s := begun(t, r)
				time.Sleep(ttl/2 - time.Second)
				if _, steps := advanced(t, r, s); len(steps) > 0 {
					t.Errorf("a second before its grace: %q", steps)
				}
				time.Sleep(time.Second)
				if _, steps := advanced(t, r, s); len(steps) != 1 || !strings.Contains(steps[0], "published the next root") {
					t.Errorf("when its grace begins: %q", steps)
				}
			})
		})
	}
}

func TestClocksThatJumpAndLeadersThatWereAwayFindAWayOut(t *testing.T) {
	for name, c := range map[string]struct {
		first, jump time.Duration
		steps       int
	}{
		"everything has expired":                       {0, 2 * RootTTL, 3},
		"the announced root has expired as well":       {RootTTL * 8 / 10, 3 * RootTTL, 4},
		"the announced root should sign long ago":      {RootTTL * 8 / 10, RootTTL / 10, 1},
		"the end is near":                              {0, RootTTL - time.Hour, 2},
		"the signing root ends before it was replaced": {RootTTL*8/10 + day, RootTTL / 5, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := usual()
				s := begun(t, r)
				time.Sleep(c.first)
				s, _ = advanced(t, r, s)
				s, _ = advanced(t, r, s)
				time.Sleep(c.jump)
				s, steps := advanced(t, r, s)
				if len(steps) != c.steps {
					t.Errorf("want %d steps, have %q", c.steps, steps)
				}
				if _, more := advanced(t, r, s); len(more) != 0 {
					t.Errorf("more at once: %q", more)
				}
				a := authorityOf(t, s)
				if _, err := a.Issue(clients(t)[0].id, ecKey(t).Public(), day); err != nil {
					t.Error(err)
				}
				for _, root := range s.roots {
					if !time.Now().Before(root.NotAfter) {
						t.Errorf("an expired root is published: %s", describe(root))
					}
				}
			})
		})
	}
}

func TestAClockThatWasSetBackTakesNoStep(t *testing.T) {
	r := usual()
	s, err := r.begin(time.Now().Add(1000 * day))
	if err != nil {
		t.Fatal(err)
	}
	if _, steps := advanced(t, r, s); len(steps) != 0 {
		t.Errorf("steps: %q", steps)
	}
	authorityOf(t, s)
}

func TestManyRotationsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Rotation{Organization: "cluster.local", TTL: time.Hour, Grace: 50, Announce: day, Retire: 90 * day}
		s := begun(t, r)
		rotations := 0
		for range 1000 {
			time.Sleep(7 * time.Minute)
			var steps []string
			s, steps = advanced(t, r, s)
			rotations += strings.Count(strings.Join(steps, ";"), "signs from now on")
			if left := time.Until(s.signer.certificate.NotAfter); left < 7*time.Minute {
				t.Fatalf("the signer lives for %s only", left)
			}
			if len(s.roots) > 4 || len(s.above) > 3 {
				t.Fatalf("%d roots, %d above", len(s.roots), len(s.above))
			}
		}
		if rotations < 100 {
			t.Errorf("%d rotations", rotations)
		}
	})
}
