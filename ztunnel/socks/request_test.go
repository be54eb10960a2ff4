package socks

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestGreetings(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"no authentication":             {"\x05\x01\x00", ""},
		"no authentication, among more": {"\x05\x03\x02\x01\x00", ""},
		"password only":                 {"\x05\x01\x02", "insists on authentication"},
		"no method":                     {"\x05\x00", "insists on authentication"},
		"SOCKS 4":                       {"\x04\x01\x00\x50", "version 4"},
		"HTTP":                          {"GET / HTTP/1.1\r\n", "version 71"},
		"cut off":                       {"\x05\x02\x00", "unexpected EOF"},
		"nothing":                       {"", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err := readGreeting(strings.NewReader(test.text))
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	long := strings.Repeat("a", 255)
	for name, test := range map[string]struct {
		text string
		want destination
		code code
	}{
		"IPv4":                    {"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", destination{addr: netip.MustParseAddr("10.0.0.1"), port: 80}, succeeded},
		"IPv6":                    {"\x05\x01\x00\x04\xfd" + strings.Repeat("\x00", 14) + "\x01\x1f\x90", destination{addr: netip.MustParseAddr("fd00::1"), port: 8080}, succeeded},
		"IPv4 in IPv6":            {"\x05\x01\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x50", destination{addr: netip.MustParseAddr("10.0.0.1"), port: 80}, succeeded},
		"name":                    {"\x05\x01\x00\x03\x08web.demo\x00\x50", destination{host: "web.demo", port: 80}, succeeded},
		"longest name":            {"\x05\x01\x00\x03\xff" + long + "\x00\x50", destination{host: long, port: 80}, succeeded},
		"address as a name":       {"\x05\x01\x00\x03\x0810.0.0.1\x00\x50", destination{addr: netip.MustParseAddr("10.0.0.1"), port: 80}, succeeded},
		"IPv6 as a name":          {"\x05\x01\x00\x03\x07fd00::1\x00\x50", destination{addr: netip.MustParseAddr("fd00::1"), port: 80}, succeeded},
		"BIND":                    {"\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", destination{}, commandUnsupported},
		"UDP ASSOCIATE":           {"\x05\x03\x00\x01\x0a\x00\x00\x01\x00\x50", destination{}, commandUnsupported},
		"unknown type of address": {"\x05\x01\x00\x02\x0a\x00\x00\x01\x00\x50", destination{}, addressUnsupported},
		"empty name":              {"\x05\x01\x00\x03\x00\x00\x50", destination{}, addressUnsupported},
		"name with a line break":  {"\x05\x01\x00\x03\x05a\r\nb.\x00\x50", destination{}, addressUnsupported},
		"no port":                 {"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x00", destination{}, generalFailure},
		"version":                 {"\x04\x01\x00\x01\x0a\x00\x00\x01\x00\x50", destination{}, generalFailure},
	} {
		t.Run(name, func(t *testing.T) {
			r := strings.NewReader(test.text + "payload")
			got, err := readRequest(r)
			var refused *codeError
			if errors.As(err, &refused) != (test.code != succeeded) || (refused != nil && refused.code != test.code) || got != test.want {
				t.Errorf("%+v, %v; want %+v, code %d", got, err, test.want, test.code)
			}
			if rest, _ := io.ReadAll(r); err == nil && string(rest) != "payload" {
				t.Errorf("the destination gets %q of the payload", rest)
			}
		})
	}
}

// FuzzNegotiation gives both parsers any bytes. What they take is whole, and not a byte more.
func FuzzNegotiation(f *testing.F) {
	for _, seed := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x02\x02\x00\x05\x01\x00\x03\x08web.demo\x00\x50rest",
		"\x05\x01\x00\x05\x01\x00\x04\xfd" + strings.Repeat("\x00", 15) + "\x00\x50", "\x05\xff", "\x05\x01\x00\x05\x01\x00\x03\xff", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := bytes.NewReader(text)
		if readGreeting(r) != nil {
			return
		}
		before := r.Len()
		to, err := readRequest(r)
		if err != nil {
			return
		}
		if to.port == 0 || to.addr.IsValid() == (to.host != "") || to.addr.Is4In6() || len(to.host) > 255 {
			t.Errorf("destination %+v", to)
		}
		if used := before - r.Len(); used > 4+1+255+2 {
			t.Errorf("a request of %d bytes", used)
		}
	})
}
