package authz_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/authz"
)

func TestWhetherARequestMayBeAllowed(t *testing.T) {
	for _, test := range []struct {
		policies string
		may      bool
	}{
		{"", true},
		{`action:ALLOW`, false},
		{`action:ALLOW rules{from{principals{any{exact:"cluster.local/ns/shop/sa/nobody"}}}}`, false},
		{`action:ALLOW rules{from{principals{any{exact:"cluster.local/ns/shop/sa/nobody"}}} to{methods{any{exact:"GET"}}}}`, false},
		{`action:ALLOW rules{to{methods{any{exact:"GET"}}}}`, true},
		{`action:ALLOW rules{from{request_principals{any{exact:"i/s"}}}}`, true},
		{`action:DENY rules{}`, false},
		{`action:DENY rules{to{methods{any{exact:"GET"}}}}`, true},
		{`action:DENY rules{to{paths{none{exact:"/open"}}}}`, true},
	} {
		var sets []*authz.Set
		if test.policies != "" {
			sets = append(sets, set(t, test.policies))
		}
		facts := asked(t, client, "GET h/", "")
		facts.Request, facts.Token = nil, nil
		if may := authz.MayAllow(sets, facts); may != test.may {
			t.Errorf("%s: %v", test.policies, may)
		}
	}
}
