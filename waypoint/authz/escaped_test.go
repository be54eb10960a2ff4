package authz_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/authz"
)

// Most servers see no difference between a character and its escape, so none is one for a policy: neither where the client escapes what the policy doesn't,
// nor the other way round.
func TestEscapesHideNothingFromPolicies(t *testing.T) {
	for _, test := range []struct{ policy, yes, no string }{
		{`action:DENY rules{to{paths{any{exact:"/v1/jobs:delete"}}}}`, "/v1/jobs /v1/jobs%253Adelete", "/v1/jobs:delete /v1/jobs%3Adelete /v1/jobs%3adelete /v1//jobs%3Adelete /x/..%2Fv1/jobs%3Adelete"},
		{`action:DENY rules{to{paths{any{exact:"/a%3Ab"}}}}`, "/a", "/a%3Ab /a%3ab /a:b"},
		{`action:DENY rules{to{paths{any{prefix:"/café"}}}}`, "/caf", "/café/x /caf%C3%A9/x /caf%c3%a9"},
		{`action:DENY rules{to{paths{any{prefix:"/caf%C3%A9/"}}}}`, "/caf/", "/café/x /caf%C3%A9/x"},
		{`action:DENY rules{to{paths{any{suffix:"(1)"}}}}`, "/a(2)", "/a(1) /a%281%29 /a(1%29"},
		{`action:DENY rules{to{paths{any{template:"/{*}/a+b/{**}"}}}}`, "/x/a-b/", "/x/a+b/ /x/a%2Bb/c"},
		{`action:DENY rules{to{paths{any{template:"/{*}/a%2Bb/{**}"}}}}`, "/x/a-b/", "/x/a+b/ /x/a%2Bb/c"},
		{`action:ALLOW rules{to{paths{any{exact:"/a:b"}}}}`, "/a:b", "/a%3Ab /a"},
		{`action:ALLOW rules{to{paths{any{exact:"/a%3Ab"}}}}`, "/a%3Ab", "/a:b /a%253Ab"},
		{`action:ALLOW rules{to{paths{any{prefix:"/a/"}}}}`, "/a/b /a/%C3%A9 /a/%20 /a/%25 /a/b%2Fc /a/{x} /a/100%25%2F", "/b/ /%61b"},
		{`action:ALLOW rules{to{paths{any{prefix:"/my%20files/"}}}}`, "/my%20files/a /my%20files/a%20b", "/my/ /my%2520files/"},
		{`action:ALLOW rules{to{paths{any{suffix:".txt"} none{prefix:"/a!/"}}}}`, "/b!/c.txt /b%21/c.txt", "/a!/c.txt /a%21/c.txt"},
	} {
		sets := []*authz.Set{set(t, test.policy)}
		for want, paths := range map[bool]string{true: test.yes, false: test.no} {
			for path := range strings.FieldsSeq(paths) {
				if v := authz.Evaluate(sets, asked(t, client, "GET h"+path, "")); v.Allowed != want {
					t.Errorf("%s: %s: %+v", test.policy, path, v)
				}
			}
		}
	}
}
