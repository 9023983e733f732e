package Net::RealizeHit::Message;

use v5.36;

use Net::RealizeHit::JSON    ();
use Net::RealizeHit::Pattern ();

our $VERSION = '0.1.0';

sub new ( $class, $fields ) { return bless $fields, $class }

sub text     ($self) { return $self->{text} }
sub position ($self) { return $self->{position} }
sub payload  ($self) { return Net::RealizeHit::JSON::decode( $self->{text} ) }
sub pattern  ($self) { return Net::RealizeHit::Pattern::filters_of( $self->{channel} ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Message - one message of a subscription

=head1 METHODS

=head2 text

The payload's JSON text as it was published, as characters.

=head2 payload

The payload, decoded. It is decoded at each call, and not before. It dies if the text is not JSON. Integers larger than
Perl's become texts; take C<text> where each digit counts.

=head2 pattern

The pattern that the message was published to, as a reference to a hash of texts; for wildcard subscriptions too.

=head2 position

The position in the history of the pattern; C<undef> if there is none.

=head2 new

Used by L<Net::RealizeHit::Client>.

=cut
