package claims_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/claims"
)

func TestRegisteredClaims(t *testing.T) {
	c, err := claims.Parse([]byte(`{"iss":"i","sub":"s","aud":["a","b"],"azp":"p","exp":1700000000.9,"nbf":1600000000}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Principal != "i/s" || c.Presenter != "p" || !slices.Equal(c.Audiences, []string{"a", "b"}) {
		t.Errorf("%+v", c)
	}
	if !c.Expiry.Equal(time.Unix(1_700_000_000, 0)) || !c.NotBefore.Equal(time.Unix(1_600_000_000, 0)) {
		t.Errorf("from %v until %v", c.NotBefore, c.Expiry)
	}
	c, err = claims.Parse([]byte(`{"aud":"a","iss":"i"}`))
	if err != nil || c.Principal != "" || !slices.Equal(c.Audiences, []string{"a"}) || !c.Expiry.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPayloadsThatAreNone(t *testing.T) {
	for _, text := range []string{
		``, `null`, `1`, `[]`, `{`, `{} {}`, `{"iss":1}`, `{"sub":{}}`, `{"aud":[1]}`, `{"aud":{}}`, `{"exp":"1"}`, `{"exp":-1}`, `{"exp":1e300}`, `{"nbf":true}`,
		strings.Repeat(`{"a":`, 20_000) + strings.Repeat(`}`, 20_000),
	} {
		if c, err := claims.Parse([]byte(text)); err == nil {
			t.Errorf("%.40s: %+v, want an error", text, c)
		}
	}
}

func TestClaimsAsHeaders(t *testing.T) {
	c, err := claims.Parse([]byte(`{"t":"x","n":1.50,"big":12345678901234567890,"b":true,"l":["x"],"o":{"in":"y"},"null":null}`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"t": "x", "n": "1.50", "big": "12345678901234567890", "b": "true", "o/in": "y", "l": "-", "o": "-", "null": "-", "t/in": "-", "z": "-"} {
		got, ok := c.Text(strings.Split(path, "/"))
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// A list of words is one at the top only, where its name is known; elsewhere the same name may mean anything.
func TestListsOfWords(t *testing.T) {
	c, err := claims.Parse([]byte(`{"scope":"read write","roles":"a b","list":["a b"],"o":{"scope":"read write"}}`))
	if err != nil {
		t.Fatal(err)
	}
	named := c.WithWordLists([]string{"roles", "list"})
	for _, test := range []struct {
		claims *claims.Claims
		path   string
		value  string
		has    bool
	}{
		{c, "scope", "write", true}, {c, "scope", "read write", false}, {c, "roles", "a", false}, {c, "roles", "a b", true},
		{named, "scope", "read", true}, {named, "roles", "b", true}, {named, "roles", "a b", false}, {named, "list", "a", false}, {named, "list", "a b", true},
		{named, "o/scope", "read", false}, {named, "o/scope", "read write", true}, {c, "scope", "rea", false},
	} {
		if got := test.claims.Has(strings.Split(test.path, "/"), func(value string) bool { return value == test.value }); got != test.has {
			t.Errorf("%s has %q: %v, want %v", test.path, test.value, got, test.has)
		}
	}
}

// FuzzParse: whatever a token holds, asking for its claims is safe, and a principal is of its issuer.
func FuzzParse(f *testing.F) {
	f.Add(`{"iss":"i","sub":"s","aud":["a"],"exp":1,"scope":"a b","x":{"y":["z",1]}}`)
	f.Add(`{"aud":"a","exp":1e3}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := claims.Parse([]byte(text))
		if err != nil {
			return
		}
		if c.Principal != "" && c.Principal != c.Issuer+"/"+c.Subject {
			t.Errorf("%+v", c)
		}
		for _, path := range [][]string{nil, {"iss"}, {"x"}, {"x", "y"}, {"scope"}} {
			c.Has(path, func(string) bool { return false })
			c.Text(path)
		}
	})
}
