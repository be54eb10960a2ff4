package exchange

import "testing"

func TestAConnectionBecomesNoOtherHTTP(t *testing.T) {
	for field, want := range map[string]string{
		"websocket": "websocket", "WebSocket": "WebSocket", "spdy/3.1, chat": "spdy/3.1, chat", "h2c": "", "H2C": "", "h2c, websocket": "websocket",
		"websocket,h2c": "websocket", "chat, \tH2c , foo": "chat, foo", "HTTP/2.0": "", "http/1.1, x": "x", "TLS/1.2, HTTP/1.1": "", "h2": "", "h2/": "", "": "", ",": "",
	} {
		if got := Upgrade(field); got != want {
			t.Errorf("%q becomes %q, want %q", field, got, want)
		}
	}
}
