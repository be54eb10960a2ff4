package record

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
)

// RFC 8446 section 5.5: keys wear out. A driver is told in time, and one that doesn't listen can't go on.
func TestKeysThatWearOutAreToldOf(t *testing.T) {
	for _, id := range allSuites {
		w, _ := pair(t, id, Client)
		w.keys.sequence = updateAt - 1
		if w.NeedsUpdate() {
			t.Error("told too early")
		}
		w.data("last but many")
		if !w.NeedsUpdate() {
			t.Error("not told")
		}
		must(w.AppendKeyUpdate(nil, false))(t)
		if w.NeedsUpdate() {
			t.Error("told again under new keys")
		}
	}
}

func TestWornKeysAreNotUsed(t *testing.T) {
	w, _ := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	w.keys.sequence = writeLimit
	if _, err := NewWriter(w.State()); err == nil || !strings.Contains(err.Error(), "can't be used any longer") {
		t.Errorf("from a state: %v", err)
	}
	if !panics(func() { w.data("one too many") }) {
		t.Error("a record was made")
	}
}

func TestSealRefusesWhatDoesNotFit(t *testing.T) {
	w, _ := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	if !panics(func() { w.Seal(make([]byte, 2*SlotLen), MaxPlaintext+1) }) {
		t.Error("a record that no peer accepts was made")
	}
	if !panics(func() { w.Seal(make([]byte, 10+Overhead-1), 10) }) {
		t.Error("a record was made past its slot")
	}
}

func panics(f func()) (was bool) {
	defer func() { was = recover() != nil }()
	f()
	return false
}

func TestStatesThatCanNotBeAreRefused(t *testing.T) {
	for _, s := range []State{
		{Suite: tls.TLS_RSA_WITH_AES_128_GCM_SHA256, Secret: make([]byte, 32)},
		{Suite: tls.TLS_AES_128_GCM_SHA256, Secret: make([]byte, 48)},
		{Suite: tls.TLS_AES_256_GCM_SHA384, Secret: make([]byte, 32)},
		{Suite: tls.TLS_AES_128_GCM_SHA256},
		{},
	} {
		if _, err := NewWriter(s); err == nil {
			t.Errorf("writer from %v", s)
		}
		if _, err := NewReader(s, Client); err == nil {
			t.Errorf("reader from %v", s)
		}
	}
}

func TestStateIsPlainButNotPrinted(t *testing.T) {
	w, _ := pair(t, tls.TLS_AES_256_GCM_SHA384, Server)
	w.data("x")
	state := w.State()
	if text := fmt.Sprintf("%v %+v", state, state); strings.Contains(text, "7") || !strings.Contains(text, "record 1") {
		t.Errorf("printed as %s", text)
	}
	state.Secret[0] ^= 1
	if bytes.Equal(state.Secret, w.State().Secret) {
		t.Error("a state shares memory with its writer")
	}
}

func TestNoStateBeforeARequestIsAnswered(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	if _, err := read(r, must(w.AppendKeyUpdate(nil, true))(t)); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.State(); ok {
		t.Error("a state by which the request would be lost")
	}
	r.UpdateRequested()
	if _, ok := r.State(); !ok {
		t.Error("no state")
	}
}

func TestNoStateWithinAMessage(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Server)
	for _, step := range []struct {
		record []byte
		ok     bool
	}{{w.data("x"), true}, {w.forge(messageTicket, typeHandshake), false}, {w.forge(0, 0, 1, 'x', typeHandshake), true}} {
		if _, err := read(r, step.record); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.State(); ok != step.ok {
			t.Errorf("a state: %v", ok)
		}
	}
}

func TestRecordsCostNoAllocation(t *testing.T) {
	for _, id := range allSuites {
		w, r := pair(t, id, Client)
		slot := make([]byte, SlotLen)
		allocs := testing.AllocsPerRun(100, func() {
			n := w.Seal(slot, MaxPlaintext)
			if found, err := r.Next(slot); found != n || err != nil {
				t.Fatal(found, err)
			}
			if plain, err := r.Open(slot[:n]); len(plain) != MaxPlaintext || err != nil {
				t.Fatal(len(plain), err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a record", tls.CipherSuiteName(id), allocs)
		}
	}
}
