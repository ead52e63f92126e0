// SPDX-License-Identifier: GPL-2.0
//! What the device gate of a member tells its caller.

/// Why the member takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A reservation stands that dm-lease did not make.
    ForeignReservation,
    /// Another program has registered a key, or the member has more keys than a list holds.
    ForeignKey,
    /// This host is registered under a key that is none of this controller's.
    NexusInUse,
    /// The key is listed, and writes of this host conflict all the same.
    WritesRefused,
}

/// Why the portion must latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Another owner has removed the own key.
    Evicted,
    /// The own key stands, and the reservation does not, or refuses this host.
    ReservationLost,
    /// A reservation stands that dm-lease did not make.
    TypeChanged,
}

/// What the caller learns. The caller takes each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// The host is registered: the mailbox on the member may be written.
    Joined,
    /// The member takes no part.
    Refused(Refusal),
    /// The member is open for writes of the own term: the owner may publish which victims are shut
    /// out.
    Opened,
    /// The key is gone; or the reservation is gone, has another type or another holder; or a victim
    /// is registered again; or commands of this host met conflicts. If this host is an owner, the
    /// member is closed for its writes. `MemberGate::is_joined` says whether this host may still
    /// write its mailbox.
    Lost,
    /// The portion must latch at once.
    Latch(Loss),
}

/// The news that the caller has not taken.
///
/// Later news never removes `Lost` and `Latch`. It removes what it makes untrue: a member that was
/// opened and lost again is `Lost` only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    lost: bool,
    latch: Option<Loss>,
    refused: Option<Refusal>,
    joined: bool,
    opened: bool,
}

impl Pending {
    /// Adds news.
    pub(super) fn tell(&mut self, news: News) {
        match news {
            News::Joined => (self.refused, self.joined) = (None, true),
            News::Opened => self.opened = true,
            News::Refused(_) | News::Lost | News::Latch(_) => {
                (self.refused, self.joined, self.opened) = (None, false, false);
            }
        }
        match news {
            News::Refused(refusal) => self.refused = Some(refusal),
            News::Lost => self.lost = true,
            News::Latch(loss) => self.latch = self.latch.or(Some(loss)),
            News::Joined | News::Opened => {}
        }
    }

    /// Takes the next news. The order is: lost, latch, refused, joined, opened.
    pub(super) fn take(&mut self) -> Option<News> {
        if core::mem::take(&mut self.lost) {
            return Some(News::Lost);
        }
        let latch = self.latch.take().map(News::Latch);
        if let Some(news) = latch.or_else(|| self.refused.take().map(News::Refused)) {
            return Some(news);
        }
        if core::mem::take(&mut self.joined) {
            return Some(News::Joined);
        }
        core::mem::take(&mut self.opened).then_some(News::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(told: &[News]) -> Vec<News> {
        let mut pending = Pending::default();
        told.iter().for_each(|news| pending.tell(*news));
        core::iter::from_fn(|| pending.take()).collect()
    }

    #[test]
    fn r54_later_news_hides_neither_a_loss_nor_a_latch() {
        use News::{Joined, Latch, Lost, Opened};
        let evicted = Latch(Loss::Evicted);
        assert_eq!(taken(&[Lost, Joined, Opened]), [Lost, Joined, Opened]);
        assert_eq!(taken(&[evicted, Joined]), [evicted, Joined]);
        assert_eq!(taken(&[Lost, evicted]), [Lost, evicted]);
        let changed = Latch(Loss::TypeChanged);
        assert_eq!(taken(&[evicted, Joined, changed]), [evicted]);
    }

    #[test]
    fn r54_news_that_is_no_longer_true_is_not_told() {
        use News::{Joined, Lost, Opened, Refused};
        let refused = Refused(Refusal::ForeignKey);
        assert_eq!(taken(&[Joined, Opened, Lost]), [Lost]);
        assert_eq!(taken(&[Joined, refused]), [refused]);
        assert_eq!(taken(&[refused, Joined]), [Joined]);
    }
}
