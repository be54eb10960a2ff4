package authz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

func compiled(t testing.TB, text string) *Policy {
	t.Helper()
	var message l7.Policy
	if err := prototext.Unmarshal([]byte(text), &message); err != nil {
		t.Fatal(err)
	}
	p, err := Compile(&l7.Origin{}, &message)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func facts(t testing.TB, account, host, path, header, group string) *view {
	t.Helper()
	peer, err := identity.New("td", "team", account)
	if err != nil {
		t.Fatal(err)
	}
	c, err := claims.Parse(fmt.Appendf(nil, `{"iss":"i","sub":%q,"group":[%[1]q],"o":{"n":%[1]q}}`, group))
	if err != nil {
		t.Fatal(err)
	}
	f := newView(&Facts{
		Connection: NewConnection(peer, netip.MustParseAddr("10.0.0."+group), netip.AddrPort{}, ""), Remote: netip.MustParseAddr("10.0.1." + group), Token: c,
		Request: &exchange.Request{Method: "GET", Authority: host, Path: path, Fields: []exchange.Field{{Name: "x", Value: header}}},
	})
	return &f
}

// Whatever rules there are, the index finds the one that asking all of them in order does.
func TestIndexFindsWhatAScanDoes(t *testing.T) {
	const seed = 8
	random := rand.New(rand.NewPCG(seed, seed))
	one := func(list ...string) string { return list[random.IntN(len(list))] }
	source := func() string {
		return one(``, `principals{any{exact:"td/ns/team/sa/1"} any{exact:"td/ns/team/sa/2"}}`, `principals{any{suffix:"/sa/1"}}`, `principals{none{exact:"td/ns/team/sa/1"}}`,
			`namespaces{any{exact:"team"}}`, `namespaces{any{exact:"other"}}`, `service_accounts{any{exact:"team/3"}}`, `ip_blocks{any:"10.0.0.2/32"}`, `ip_blocks{any:"10.0.0.0/30" any:"fd00::/8"}`,
			`remote_ip_blocks{any:"10.0.1.4/30"}`, `request_principals{any{exact:"i/3"}}`)
	}
	operation := func() string {
		return one(``, `paths{any{exact:"/a"}}`, `paths{any{prefix:"/a/"} any{exact:"/c"}}`, `paths{any{template:"/a/{*}/c"}}`, `paths{any{suffix:"c"}}`, `paths{none{exact:"/a"}}`) +
			one(``, ``, `hosts{any{exact:"H"}}`, `hosts{any{exact:"h:80"}}`, `hosts{any{suffix:"h"}}`, `methods{any{exact:"GET"}}`, `methods{any{exact:"PUT"}}`)
	}
	condition := func() string {
		return one(``, ``, `when{attribute:REQUEST_HEADER header:"x" values{any{exact:"1"}}}`, `when{attribute:REQUEST_HEADER header:"host" values{any{exact:"h"}}}`,
			`when{attribute:REQUEST_CLAIM claim:"group" values{any{exact:"2"}}}`, `when{attribute:REQUEST_CLAIM claim:"o" claim:"n" values{any{exact:"3"} none{exact:"4"}}}`,
			`when{attribute:SOURCE_IP ranges{any:"10.0.0.4/31"}}`, `when{attribute:SOURCE_PRINCIPAL values{any{prefix:"td/"}}}`)
	}
	hits := 0
	for range 300 {
		var c clauses
		for range random.IntN(12) {
			text := `action:DENY rules{`
			for range random.IntN(3) {
				text += `from{` + source() + `}`
			}
			for range random.IntN(3) {
				text += `to{` + operation() + `}`
			}
			c.add(compiled(t, text+condition()+condition()+`}`))
		}
		c.file()
		for range 30 {
			f := facts(t, one("1", "2", "3"), one("h", "h:80", "x.h", ""), one("/a", "/a/b", "/a/b/c", "/c", "/"), one("1", "2"), one("1", "2", "3", "4", "5"))
			want := -1
			for i := range c.list {
				if c.list[i].rule.matches(f, c.list[i].policy) {
					want = i
					break
				}
			}
			got, ok := c.find(f, func(i int32) bool { return c.list[i].rule.matches(f, c.list[i].policy) })
			if ok != (want >= 0) || ok && got != int32(want) {
				t.Fatalf("found %d, %v; want %d, of %d rules", got, ok, want, len(c.list))
			}
			if ok {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d of 9000 requests were matched by any rule", hits)
	}
}

// A request is compared with as many rules when there are 5,000 as when there is one.
func TestARequestIsComparedWithFewRules(t *testing.T) {
	f := facts(t, "0", "h-0", "/items-0/x/y", "0", "0")
	for _, rule := range []string{
		`from{principals{any{exact:"td/ns/team/sa/%d"}}}`, `from{service_accounts{any{exact:"team/%d"}}} to{methods{any{exact:"GET"}}}`, `to{hosts{any{exact:"h-%d"}}}`,
		`to{paths{any{prefix:"/items-%d/"}}}`, `to{paths{any{template:"/items-%d/{**}"}}}`, `from{namespaces{any{exact:"team"}}} when{attribute:REQUEST_HEADER header:"x" values{any{exact:"%d"}}}`,
		`when{attribute:REQUEST_CLAIM claim:"group" values{any{exact:"%d"}}}`, `from{request_principals{any{exact:"i/%d"}}}`,
	} {
		var text strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&text, `rules{`+rule+`}`, i)
		}
		var c clauses
		c.add(compiled(t, `action:DENY `+text.String()))
		c.file()
		compared := 0
		if first, ok := c.find(f, func(i int32) bool {
			compared++
			return c.list[i].rule.matches(f, c.list[i].policy)
		}); first != 0 || !ok || compared != 1 {
			t.Errorf("%s: found %d, %v, after being compared with %d", rule, first, ok, compared)
		}
	}
}
