package daemon

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestDebugPagesAreForThisMachineOnly(t *testing.T) {
	pages := nearby(text("shown"))
	for _, test := range []struct {
		path, from string
		want       int
	}{
		{"/debug/ambientz", "127.0.0.1:1000", http.StatusOK},
		{"/debug/ambientz", "[::1]:1000", http.StatusOK},
		{"/debug/ambientz", "[::ffff:127.0.0.1]:1000", http.StatusOK},
		{"/debug/ambientz", "10.0.0.9:1000", http.StatusForbidden},
		{"/debug/pprof/profile", "[2001:db8::1]:1000", http.StatusForbidden},
		{"//debug/ambientz", "10.0.0.9:1000", http.StatusForbidden},
		{"/ready/../debug/ambientz", "10.0.0.9:1000", http.StatusForbidden},
		{"/debug", "10.0.0.9:1000", http.StatusForbidden},
		{"/debug/ambientz", "", http.StatusForbidden},
		{"/metrics", "10.0.0.9:1000", http.StatusOK},
		{"/ready", "10.0.0.9:1000", http.StatusOK},
		{"/version", "10.0.0.9:1000", http.StatusOK},
	} {
		request := httptest.NewRequest(http.MethodGet, "http://istiod:15014"+test.path, nil)
		request.RemoteAddr = test.from
		answer := httptest.NewRecorder()
		if pages.ServeHTTP(answer, request); answer.Code != test.want {
			t.Errorf("%s from %q: %d, want %d", test.path, test.from, answer.Code, test.want)
		}
	}
}
