package jwt_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

// server is an issuer's.
type server struct {
	*httptest.Server
	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]
}

func newServer(t testing.TB, answer http.HandlerFunc) *server {
	s := &server{}
	s.answer.Store(&answer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(answer http.HandlerFunc) { s.answer.Store(&answer) }

func serve(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func fail(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no", http.StatusInternalServerError)
}

// wait asks until there is nothing more to wait for. The deadline is the package's own.
func wait(t testing.TB, c *jwt.Checker, s *jwt.Set, req *exchange.Request, at time.Time) string {
	t.Helper()
	for {
		again := make(chan struct{})
		r := c.Check(s, req, at, func() { close(again) })
		if !r.Waiting {
			return outcome(r)
		}
		<-again
	}
}

// settle waits until what is being fetched has been, whoever wanted it: a token of an unknown key waits for any fetch under way.
func settle(t testing.TB, s *jwt.Set, at time.Time) {
	t.Helper()
	wait(t, new(jwt.Checker), s, bearer(newSigner(t, "nobody's", "ES256").sign(t, map[string]any{"exp": at.Add(time.Hour).Unix()})), at)
}

func TestKeysAreFetchedWhenTheyAreConfigured(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	srv := newServer(t, serve(keySet(t, k.key())))
	s := trust(t, newKeys(t), fmt.Sprintf("jwks_uri:%q", srv.URL))
	var waiters sync.WaitGroup
	for range 20 {
		waiters.Go(func() {
			if got := wait(t, new(jwt.Checker), s, bearer(k.sign(t, nil)), now); got != "me/you" {
				t.Error(got)
			}
		})
	}
	waiters.Wait()
	if n := srv.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for 20 requests", n)
	}
}

func TestKeysAreFoundByTheIssuersConfiguration(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	for name, c := range map[string]struct{ config, want string }{
		"its own":      {`{"issuer":"URL","jwks_uri":"URL/keys"}`, "URL/you"},
		"another's":    {`{"issuer":"https://other","jwks_uri":"URL/keys"}`, "401 Jwks remote fetch is failed"},
		"without keys": {`{"issuer":"URL"}`, "401 Jwks remote fetch is failed"},
		"of a file":    {`{"issuer":"URL","jwks_uri":"file:///etc/keys"}`, "401 Jwks remote fetch is failed"},
		"no JSON":      {`x`, "401 Jwks remote fetch is failed"},
	} {
		var srv *server
		srv = newServer(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/.well-known/openid-configuration":
				fmt.Fprint(w, strings.ReplaceAll(c.config, "URL", srv.URL))
			case "/keys":
				fmt.Fprint(w, keySet(t, k.key()))
			}
		})
		s := trust(t, newKeys(t), fmt.Sprintf("issuer:%q", srv.URL))
		got := wait(t, new(jwt.Checker), s, bearer(k.sign(t, map[string]any{"iss": srv.URL})), now)
		if want := strings.ReplaceAll(c.want, "URL", srv.URL); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestAFetchEndsInTime(t *testing.T) {
	srv := newServer(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s := trust(t, newKeys(t), fmt.Sprintf("jwks_uri:%q fetch_timeout_ms:200", srv.URL))
	if got := wait(t, new(jwt.Checker), s, bearer(newSigner(t, "k", "ES256").sign(t, nil)), now); got != "401 Jwks remote fetch is failed" {
		t.Error(got)
	}
}

func TestKeysOfHTTPSAreNotFetchedByHTTP(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	plain := newServer(t, serve(keySet(t, k.key())))
	var secure *httptest.Server
	secure = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, secure.URL, plain.URL)
		case "/elsewhere":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		default:
			fmt.Fprint(w, keySet(t, k.key()))
		}
	}))
	defer secure.Close()
	keys := jwt.NewKeys(secure.Client(), quiet)
	defer keys.Close()
	for name, c := range map[string][2]string{
		"by HTTPS":                    {fmt.Sprintf("jwks_uri:%q", secure.URL), "me/you"},
		"led away by a redirect":      {fmt.Sprintf("jwks_uri:%q", secure.URL+"/elsewhere"), "401 Jwks remote fetch is failed"},
		"led away by a configuration": {fmt.Sprintf("issuer:%q", secure.URL), "401 Jwks remote fetch is failed"},
	} {
		claims := map[string]any{}
		if strings.HasPrefix(c[0], "issuer") {
			claims["iss"] = secure.URL
		}
		if got := wait(t, new(jwt.Checker), trust(t, keys, c[0]), bearer(k.sign(t, claims)), now); got != c[1] {
			t.Errorf("%s: %s, want %s", name, got, c[1])
		}
	}
	if n := plain.fetches.Load(); n != 0 {
		t.Errorf("%d fetches by HTTP", n)
	}
}

func TestWithoutKeysNobodyComesIn(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	good := keySet(t, k.key())
	elsewhere := newServer(t, serve(good))
	for name, answer := range map[string]http.HandlerFunc{
		"an error":       fail,
		"no keys":        serve(`{"keys":[]}`),
		"too long":       serve(good + strings.Repeat(" ", 1<<20)),
		"without an end": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) },
	} {
		srv := newServer(t, answer)
		s := trust(t, newKeys(t), fmt.Sprintf("jwks_uri:%q", srv.URL))
		var c jwt.Checker
		const failed = "401 Jwks remote fetch is failed"
		if got := wait(t, &c, s, bearer(k.sign(t, nil)), now); got != failed {
			t.Errorf("%s: %s", name, got)
		}
		fetches := srv.fetches.Load()
		if got := wait(t, &c, s, bearer(k.sign(t, nil)), now.Add(time.Second)); got != failed || srv.fetches.Load() != fetches {
			t.Errorf("%s: a second later: %s, after %d fetches", name, got, srv.fetches.Load())
		}
		srv.set(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
		if got := wait(t, &c, s, bearer(k.sign(t, nil)), now.Add(10*time.Second)); got != "me/you" {
			t.Errorf("%s: when they are there: %s", name, got)
		}
	}
}

// transport answers fetches without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWhoWaitedForAFetchThatFailedWaitsForNoOther(t *testing.T) {
	token := newSigner(t, "k", "ES256").sign(t, map[string]any{"exp": nil})
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		keys := jwt.NewKeys(&http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			fetches++
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}, quiet)
		s := jwt.Assemble([]*jwt.Authentication{compileAt(t, keys, time.Now(), `jwks_uri:"http://issuer" fetch_timeout_ms:20000`)})
		var c jwt.Checker
		begun, waits := time.Now(), 0
		for {
			again := make(chan struct{})
			r := c.Check(s, bearer(token), time.Now(), func() { close(again) })
			if !r.Waiting {
				if got := outcome(r); got != "401 Jwks remote fetch is failed" {
					t.Error(got)
				}
				break
			}
			if waits++; waits > 3 {
				break
			}
			<-again
		}
		if took := time.Since(begun); waits != 1 || fetches != 1 || took != 20*time.Second {
			t.Errorf("waited %d times, %v, for %d fetches", waits, took, fetches)
		}
		keys.Close()
	})
}

func TestKeysAreRotated(t *testing.T) {
	old, next := newSigner(t, "old", "ES256"), newSigner(t, "next", "ES256")
	srv := newServer(t, serve(keySet(t, old.key())))
	s := trust(t, newKeys(t), fmt.Sprintf("jwks_uri:%q", srv.URL))
	var c jwt.Checker
	ask := func(k signer, after time.Duration) string {
		return wait(t, &c, s, bearer(k.sign(t, nil)), now.Add(after))
	}
	if got := ask(old, 0); got != "me/you" {
		t.Fatal(got)
	}
	srv.set(serve(keySet(t, next.key())))
	if got := ask(next, time.Second); got != "401 Jwks doesn't have key to match kid or alg from Jwt" || srv.fetches.Load() != 1 {
		t.Errorf("at once: %s, after %d fetches", got, srv.fetches.Load())
	}
	if got := ask(next, 6*time.Second); got != "me/you" || srv.fetches.Load() != 2 {
		t.Errorf("a little later: %s, after %d fetches", got, srv.fetches.Load())
	}
	if got := ask(old, 7*time.Second); got != "401 Jwks doesn't have key to match kid or alg from Jwt" {
		t.Errorf("a remembered token of the old key: %s", got)
	}
	for i := range 100 { // nobody can make us fetch for every request
		ask(newSigner(t, fmt.Sprint(i), "ES256"), 8*time.Second)
	}
	if n := srv.fetches.Load(); n != 2 {
		t.Errorf("%d fetches for 100 unknown keys", n-2)
	}
}

func TestKeysAreFetchedAnewWhileRequestsGoOn(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	srv := newServer(t, serve(keySet(t, k.key())))
	s := trust(t, newKeys(t), fmt.Sprintf("jwks_uri:%q", srv.URL))
	var c jwt.Checker
	token := k.sign(t, map[string]any{"exp": now.Add(72 * time.Hour).Unix()})
	ask := func(after time.Duration) jwt.Result { return c.Check(s, bearer(token), now.Add(after), func() {}) }
	wait(t, &c, s, bearer(token), now)
	srv.set(fail)
	for i, after := range []time.Duration{6 * time.Minute, time.Hour, 23 * time.Hour} {
		if got := outcome(ask(after)); got != "me/you" {
			t.Errorf("after %v: %s", after, got)
		}
		settle(t, s, now.Add(after))
		if n := srv.fetches.Load(); n != int64(i)+2 {
			t.Errorf("%d fetches after %v", n, after)
		}
	}
	if got := wait(t, &c, s, bearer(token), now.Add(25*time.Hour)); got != "401 Jwks remote fetch is failed" {
		t.Errorf("keys that weren't confirmed for a day: %s", got)
	}
	srv.set(serve(keySet(t, k.key())))
	if got := wait(t, &c, s, bearer(token), now.Add(26*time.Hour)); got != "me/you" {
		t.Errorf("when they are there again: %s", got)
	}
}

func TestKeysOutliveAChangeOfTheirPolicy(t *testing.T) {
	k := newSigner(t, "k", "ES256")
	srv := newServer(t, serve(keySet(t, k.key())))
	keys := newKeys(t)
	before := compile(t, keys, fmt.Sprintf("jwks_uri:%q", srv.URL))
	wait(t, new(jwt.Checker), jwt.Assemble([]*jwt.Authentication{before}), bearer(k.sign(t, nil)), now)
	after := compile(t, keys, fmt.Sprintf("jwks_uri:%q audiences:\"web\"", srv.URL))
	keys.Release(before)
	if got := check(t, jwt.Assemble([]*jwt.Authentication{after}), bearer(k.sign(t, map[string]any{"aud": "web"})), now); got != "me/you" || srv.fetches.Load() != 1 {
		t.Errorf("%s, after %d fetches", got, srv.fetches.Load())
	}
	third := compile(t, keys, fmt.Sprintf("jwks_uri:%q", srv.URL))
	if got := check(t, jwt.Assemble([]*jwt.Authentication{third}), bearer(k.sign(t, nil)), now); got != "me/you" || srv.fetches.Load() != 1 {
		t.Errorf("a policy more: %s, after %d fetches", got, srv.fetches.Load())
	}
	keys.Release(third)
	keys.Release(after)
	last := trust(t, keys, fmt.Sprintf("jwks_uri:%q", srv.URL))
	if wait(t, new(jwt.Checker), last, bearer(k.sign(t, nil)), now); srv.fetches.Load() != 2 {
		t.Errorf("%d fetches, when nobody had needed the keys", srv.fetches.Load())
	}
}

func TestClosingEndsWhatIsFetched(t *testing.T) {
	stuck := make(chan struct{})
	srv := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		close(stuck)
		<-r.Context().Done()
	})
	keys := jwt.NewKeys(&http.Client{}, quiet)
	s := jwt.Assemble([]*jwt.Authentication{compile(t, keys, fmt.Sprintf("jwks_uri:%q fetch_timeout_ms:30000", srv.URL))})
	told := make(chan struct{})
	if r := new(jwt.Checker).Check(s, bearer(newSigner(t, "k", "ES256").sign(t, nil)), now, func() { close(told) }); !r.Waiting {
		t.Fatal(outcome(r))
	}
	<-stuck
	keys.Close()
	<-told
}
