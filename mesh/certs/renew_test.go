package certs_test

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNewRootsReachEveryCertificateWithinSeconds(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(20)
		for _, id := range ids {
			f.get(id)
		}
		f.ca.Rotate()
		f.manager.Renew()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, id := range ids {
			if got, want := f.get(id).RootsPEM, f.ca.RootsPEM(); got != want {
				t.Errorf("%s has the old roots", id)
			}
		}
		if calls := len(f.ca.diary()); calls != 40 {
			t.Errorf("%d requests, want two for each identity", calls)
		}
		time.Sleep(life * 44 / 100)
		synctest.Wait()
		if calls := len(f.ca.diary()); calls != 40 {
			t.Errorf("%d requests, want none before half of the new life", calls)
		}
	})
}

func TestAnswerOfTheTimeBeforeNewRootsIsAskedForAgain(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		f.ca.set(5*time.Second, nil)
		ids := f.accounts(1)
		f.manager.Set(ids)
		time.Sleep(time.Second)
		f.manager.Renew()
		time.Sleep(time.Minute)
		synctest.Wait()
		if calls := len(f.ca.diary()); calls != 2 {
			t.Errorf("%d requests, want the one in flight and another", calls)
		}
	})
}

func TestFailedRenewalForNewRootsKeepsTheCertificate(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.accounts(1)[0]
		first := f.get(id)
		f.ca.set(0, errOutage)
		f.manager.Renew()
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.get(id) != first || f.state(id) != "Available" {
			t.Errorf("the certificate is gone: %s", f.state(id))
		}
	})
}
