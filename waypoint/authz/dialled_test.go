package authz_test

import (
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/authz"
)

// Who dials a service by its name goes round no policy about its address, for a request or for a connection.
func TestAddressesOfWhatIsDialledByNameAreNotKnown(t *testing.T) {
	for _, test := range []struct {
		policy string
		allows bool
	}{
		{`action:DENY rules{when{attribute:DESTINATION_IP ranges{any:"10.1.0.0/16"}}}`, false},
		{`action:DENY rules{when{attribute:DESTINATION_IP ranges{none:"10.2.0.0/16"}}}`, false},
		{`action:ALLOW rules{when{attribute:DESTINATION_IP ranges{any:"10.1.0.0/16"}}}`, false},
		{`action:ALLOW rules{when{attribute:DESTINATION_IP ranges{none:"10.2.0.0/16"}}}`, false},
		{`action:ALLOW rules{when{attribute:DESTINATION_PORT ports{any:80}}}`, true},
	} {
		for _, request := range []string{"", "GET h/"} {
			f := asked(t, client, request, "")
			f.Connection = authz.NewConnection(identity.Workload{}, netip.MustParseAddr("10.0.0.7"), netip.AddrPortFrom(netip.Addr{}, 80), "")
			if v := authz.Evaluate([]*authz.Set{set(t, test.policy)}, f); v.Allowed != test.allows {
				t.Errorf("%s: %q: %+v", test.policy, request, v)
			}
		}
	}
}
