//! What a hostile platform, a hostile network and a hostile firmware server can do. The threats are in
//! `docs/threats.md`.

mod bench;
mod downloads;
mod floods;
mod images;
mod tls;
