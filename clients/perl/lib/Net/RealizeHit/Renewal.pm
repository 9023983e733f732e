package Net::RealizeHit::Renewal;

use v5.36;

use Net::RealizeHit::Backoff ();
use Net::RealizeHit::Session ();

our $VERSION = '0.1.0';

# Takes the schedule, the session, the response time-out, the bounds of the back-off, `token`, which returns a token or an
# error, and `on_error`.
sub new ( $class, %fields ) { return bless {%fields}, $class }

# The token ends in so many seconds: sends a fresh one, however many attempts that takes, until the connection is lost.
sub begin ( $self, $seconds ) {
    return if defined $self->{timer};
    $self->{delays} = Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} );

    # Clients whose tokens end together do not ask together.
    $self->_after( $seconds * ( 0.25 + rand 0.25 ) );
    return;
}

sub give_up ($self) {
    $self->{schedule}->cancel( delete $self->{timer} );
    return;
}

sub _after ( $self, $delay ) {
    $self->{timer} = $self->{schedule}->timer( $delay, sub { $self->_renew } );
    return;
}

sub _renew ($self) {
    my ( $token, $error ) = $self->{token}->();
    return $self->_again($error) if $error;
    my $answered;
    $self->{timer} = $self->{schedule}->timer(
        $self->{response_timeout},
        sub {
            $answered = 1;
            $self->_again( Net::RealizeHit::Session::late('auth') );
        }
    );
    $self->{session}->act(
        { act => 'auth', token => $token },
        sub ($reply) {
            return if $answered;
            $self->give_up;
            $self->_again( Net::RealizeHit::Session::refusal($reply) ) if $reply && defined $reply->{err};
        }
    );
    return;
}

sub _again ( $self, $error ) {
    $self->{on_error}->($error);
    $self->_after( $self->{delays}->next_delay );
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Renewal - sends a fresh token before one ends

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Client>.

=head1 METHODS

=head2 new

Takes what it needs by name.

=head2 begin

The token ends in so many seconds.

=head2 give_up

The connection is lost.

=cut
